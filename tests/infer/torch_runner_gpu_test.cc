// The serving backend on a GPU. Skips, saying so, where there is no GPU.
#include <ATen/ATen.h>

#include "gtest/gtest.h"
#include "tests/infer/torch_runner_checks.h"

namespace mindforge {
namespace {

class TorchRunnerGpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "SKIPPED: this machine or build has no GPU";
  }
};

TEST_F(TorchRunnerGpuTest, LogitsMatchTheReferences) { ExpectTheReferencesLogits("cuda:0", 2e-4f); }

TEST_F(TorchRunnerGpuTest, AMixedBatchAgreesWithTheCpuKernels) {
  ExpectMixedBatchesToAgreeWithTheCpuKernels("cuda:0", 5e-4f);
}

TEST_F(TorchRunnerGpuTest, Bfloat16StaysNear) {
  const GoldenModel golden("dense");
  std::vector<int32_t> ids = golden.Ids("input_ids");
  ids.resize(96);
  const std::vector<float> expected = golden.Values<float>("logits");
  float scale = 0;
  for (float v : expected) scale = std::max(scale, std::abs(v));
  const auto runner = Torch(Options(golden.path(), "cuda:0", RunnerDtype::kBfloat16));
  EXPECT_LE(LargestDifference(RunInChunks(*runner, ids, 96), expected.data()), 0.05f * scale);
}

}  // namespace
}  // namespace mindforge
