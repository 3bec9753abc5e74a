#include "common/training_numerics.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mindforge {

// Raise a version whenever its bits move, and give its former names up: docs/decisions/0032.
extern const char kTrainFloat32Numerics[] = "train-f32-1";
extern const char kTrainBfloat16Numerics[] = "train-bf16-1";
extern const char kTrainFloat16Numerics[] = "train-f16-1";
extern const char kTrainCudaNumerics[] = "train-cuda-2";
extern const char kNumericsLibTorch[] = "torch-2.11.0";
extern const char kKernelBuild[] = MINDFORGE_KERNEL_BUILD;

namespace {

// Version and build type of the last build that named devices by them.
constexpr char kLegacyBuild[] = "0.1.0-Release";

constexpr char kIntel[] = "GenuineIntel";

// What that build called the widest instruction set.
const char* LegacyIsa(CpuColumn column) {
#if defined(__x86_64__)
  return column == CpuColumn::kBaseline ? "x86-64" : CpuColumnName(column);
#else
  (void)column;
  return "generic";
#endif
}

// As train_kernels' prefers_product: ours has the same bits for every number of threads.
bool OwnFloatProduct(const CpuFacts& cpu) {
  return cpu.column != CpuColumn::kBaseline && cpu.maker != kIntel;
}

// Below AVX-512 the library's bfloat16 product sums every element in one order; with it the work
// goes to oneDNN, which blocks by the number of threads.
bool ThreadsDecideBfloat16(const CpuFacts& cpu) { return cpu.column >= CpuColumn::kAvx512; }

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

bool MatchesFormer(absl::string_view pattern, absl::string_view name) {
  const size_t star = pattern.find('*');
  if (star == absl::string_view::npos) return pattern == name;
  const absl::string_view before = pattern.substr(0, star);
  const absl::string_view after = pattern.substr(star + 1);
  return name.size() > before.size() + after.size() && absl::StartsWith(name, before) &&
         absl::EndsWith(name, after) &&
         IsNumber(name.substr(before.size(), name.size() - before.size() - after.size()));
}

}  // namespace

const char* CpuColumnName(CpuColumn column) {
  switch (column) {
    case CpuColumn::kBaseline:
      return "baseline";
    case CpuColumn::kAvx2:
      return "avx2";
    case CpuColumn::kAvx512:
      return "avx512";
    case CpuColumn::kAvx512Bf16:
      return "avx512-bf16";
  }
  return "?";
}

CpuFacts FindCpuFacts() {
  CpuFacts cpu{.maker = "unknown"};
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  bool has_maker = false, has_flags = false;
  while ((!has_maker || !has_flags) && std::getline(info, line)) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (!has_maker && absl::StartsWith(line, "vendor_id")) {
      cpu.maker = line.substr(colon + 2);
      has_maker = true;
    } else if (!has_flags && absl::StartsWith(line, "flags")) {
      cpu.has_amx = absl::StrContains(absl::StrCat(line, " "), " amx_bf16 ");
      has_flags = true;
    }
  }
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    cpu.column = CpuColumn::kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      cpu.column =
          __builtin_cpu_supports("avx512bf16") ? CpuColumn::kAvx512Bf16 : CpuColumn::kAvx512;
    }
  }
#endif
  return cpu;
}

std::vector<TrainingNumerics> CpuTrainingNumerics(const CpuFacts& cpu, int threads) {
  // Without an instruction for it nothing is contracted.
  const bool contracted = cpu.column != CpuColumn::kBaseline && kKernelBuild[0] != '\0';
  const std::string compiled_by = contracted ? absl::StrCat(kKernelBuild, "/") : "";
  const auto named = [&](const char* dtype, const char* numerics, bool amx, bool with_threads) {
    TrainingNumerics all;
    all.dtype = dtype;
    all.name = absl::StrCat("cpu/", cpu.maker, "/", CpuColumnName(cpu.column), amx ? "+amx" : "",
                            "/", numerics, "/", compiled_by, kNumericsLibTorch,
                            with_threads ? absl::StrCat("/threads=", threads) : "");
    all.former_names = {absl::StrCat("cpu/", cpu.maker, " ", LegacyIsa(cpu.column),
                                     "/threads=", with_threads ? absl::StrCat(threads) : "*", "/",
                                     kLegacyBuild)};
    return all;
  };
  return {named("float32", kTrainFloat32Numerics, false, !OwnFloatProduct(cpu)),
          named("bfloat16", kTrainBfloat16Numerics, cpu.has_amx, ThreadsDecideBfloat16(cpu)),
          // Composed of the library's operations, on a way that is there for tests and trials.
          named("float16", kTrainFloat16Numerics, cpu.has_amx, true)};
}

std::vector<TrainingNumerics> CudaTrainingNumerics(const GpuFacts& gpu) {
  std::vector<TrainingNumerics> all;
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    all.push_back({dtype,
                   absl::StrCat("cuda/", gpu.model, "/sm_", gpu.major, gpu.minor, "/",
                                kTrainCudaNumerics, "/", kNumericsLibTorch, "+cu130/", dtype),
                   /*former_names=*/{}});
  }
  return all;
}

bool SameBits(const TrainingNumerics& numerics, std::string_view pinned) {
  const absl::string_view name(pinned.data(), pinned.size());
  return numerics.name == pinned ||
         std::any_of(numerics.former_names.begin(), numerics.former_names.end(),
                     [&](const std::string& former) { return MatchesFormer(former, name); });
}

std::string LegacyCpuSignature(const CpuFacts& cpu, int threads) {
  return absl::StrCat("cpu/", cpu.maker, " ", LegacyIsa(cpu.column), "/threads=", threads, "/",
                      kLegacyBuild);
}

std::string LegacyCudaSignature(const GpuFacts& gpu) {
  return absl::StrCat("cuda/", gpu.model, "/", kLegacyBuild);
}

}  // namespace mindforge
