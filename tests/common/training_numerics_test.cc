// The names of training's arithmetic, and which names of earlier builds they stand for.
#include "common/training_numerics.h"

#include <gtest/gtest.h>

namespace mindforge {
namespace {

constexpr char kOldAmd[] = "cpu/AuthenticAMD avx2/threads=2/0.1.0-Release";

TrainingNumerics Of(const std::vector<TrainingNumerics>& all, const std::string& dtype) {
  for (const TrainingNumerics& numerics : all) {
    if (numerics.dtype == dtype) return numerics;
  }
  ADD_FAILURE() << "no numerics for " << dtype;
  return {};
}

const CpuFacts kAmd{"AuthenticAMD", CpuColumn::kAvx2, false};
const CpuFacts kIntel{"GenuineIntel", CpuColumn::kAvx512, false};

TEST(TrainingNumerics, HoldNoVersionOfTheBuild) {
  const std::string compiler = kKernelBuild[0] == '\0' ? "" : std::string(kKernelBuild) + "/";
  EXPECT_EQ(Of(CpuTrainingNumerics(kAmd, 2), "float32").name,
            "cpu/AuthenticAMD/avx2/train-f32-1/" + compiler + "torch-2.11.0");
  EXPECT_EQ(Of(CudaTrainingNumerics({"NVIDIA H200", 9, 0}), "bfloat16").name,
            "cuda/NVIDIA H200/sm_90/train-cuda-2/torch-2.11.0+cu130/bfloat16");
}

TEST(TrainingNumerics, HoldThreadsOnlyWhereTheyDecideBits) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    EXPECT_EQ(Of(CpuTrainingNumerics(kAmd, 1), dtype), Of(CpuTrainingNumerics(kAmd, 8), dtype));
    EXPECT_NE(Of(CpuTrainingNumerics(kIntel, 1), dtype).name,
              Of(CpuTrainingNumerics(kIntel, 8), dtype).name);
  }
}

TEST(TrainingNumerics, DifferByDtypeColumnMakerAndTiles) {
  EXPECT_NE(Of(CpuTrainingNumerics(kAmd, 1), "float32").name,
            Of(CpuTrainingNumerics(kAmd, 1), "bfloat16").name);
  EXPECT_NE(
      Of(CpuTrainingNumerics(kAmd, 1), "float32").name,
      Of(CpuTrainingNumerics({"AuthenticAMD", CpuColumn::kAvx512, false}, 1), "float32").name);
  EXPECT_NE(Of(CpuTrainingNumerics(kAmd, 1), "float32").name,
            Of(CpuTrainingNumerics({"GenuineIntel", CpuColumn::kAvx2, false}, 1), "float32").name);
  EXPECT_NE(
      Of(CpuTrainingNumerics({"GenuineIntel", CpuColumn::kAvx512Bf16, true}, 1), "bfloat16").name,
      Of(CpuTrainingNumerics({"GenuineIntel", CpuColumn::kAvx512Bf16, false}, 1), "bfloat16").name);
}

TEST(TrainingNumerics, StandForTheSignaturesOfBuildsWithTheSameBits) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    // Bits do not depend on threads here, so a job of two threads goes on with eight.
    EXPECT_TRUE(SameBits(Of(CpuTrainingNumerics(kAmd, 8), dtype), kOldAmd));
    EXPECT_FALSE(SameBits(Of(CpuTrainingNumerics(kIntel, 2), dtype), kOldAmd));
  }
  const TrainingNumerics two = Of(CpuTrainingNumerics(kIntel, 2), "float32");
  EXPECT_TRUE(SameBits(two, "cpu/GenuineIntel avx512/threads=2/0.1.0-Release"));
  EXPECT_FALSE(SameBits(two, "cpu/GenuineIntel avx512/threads=3/0.1.0-Release"));
  EXPECT_FALSE(SameBits(two, "cpu/GenuineIntel avx512/threads=2/0.1.0-Debug"));
  // Those composed of the library's operations had other bits.
  EXPECT_FALSE(SameBits(Of(CudaTrainingNumerics({"NVIDIA H200", 9, 0}), "bfloat16"),
                        "cuda/NVIDIA H200/0.1.0-Release"));
}

TEST(TrainingNumerics, TakeOnlyANumberForTheStar) {
  const TrainingNumerics numerics = Of(CpuTrainingNumerics(kAmd, 1), "float32");
  EXPECT_FALSE(SameBits(numerics, "cpu/AuthenticAMD avx2/threads=/0.1.0-Release"));
  EXPECT_FALSE(SameBits(numerics, "cpu/AuthenticAMD avx2/threads=2/x/0.1.0-Release"));
  EXPECT_FALSE(SameBits(numerics, ""));
  EXPECT_TRUE(SameBits(numerics, numerics.name));
}

TEST(TrainingNumerics, LegacySignaturesAreThoseOfTheBuildsBefore) {
  EXPECT_EQ(LegacyCpuSignature(kAmd, 2), kOldAmd);
  EXPECT_EQ(LegacyCudaSignature({"NVIDIA H200", 9, 0}), "cuda/NVIDIA H200/0.1.0-Release");
}

}  // namespace
}  // namespace mindforge
