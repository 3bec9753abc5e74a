#include "worker/train/numerics_check.h"

#include <torch/headeronly/version.h>

#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/training_numerics.h"
#include "worker/kernels/train_kernels.h"
#include "worker/train/failure.h"
#ifdef MINDFORGE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace mindforge {
namespace {

static_assert(static_cast<int>(CpuColumn::kBaseline) == static_cast<int>(CpuIsa::kBaseline));
static_assert(static_cast<int>(CpuColumn::kAvx2) == static_cast<int>(CpuIsa::kAvx2));
static_assert(static_cast<int>(CpuColumn::kAvx512) == static_cast<int>(CpuIsa::kAvx512));
static_assert(static_cast<int>(CpuColumn::kAvx512Bf16) == static_cast<int>(CpuIsa::kAvx512Bf16));

// The model by the name that the agent gave it: CUDA may have another one for the same device.
GpuFacts FindGpuFacts(const TrainDevice& device) {
  GpuFacts facts{.model = device.model};
#ifdef MINDFORGE_CUDA
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, device.cuda_index) == cudaSuccess) {
    if (facts.model.empty()) facts.model = properties.name;
    facts.major = properties.major;
    facts.minor = properties.minor;
  }
#endif
  return facts;
}

std::vector<TrainingNumerics> NumericsOf(const TrainDevice& device) {
  if (device.cuda_index >= 0) return CudaTrainingNumerics(FindGpuFacts(device));
  CpuFacts cpu = FindCpuFacts();
  cpu.column = static_cast<CpuColumn>(DetectCpuIsa());
  return CpuTrainingNumerics(cpu, device.threads);
}

}  // namespace

absl::StatusOr<std::string> CheckNumerics(const TrainDevice& device, TrainDtype dtype) {
  if (std::string_view(kNumericsLibTorch) != "torch-" TORCH_VERSION) {
    return absl::InternalError(absl::StrCat("this trainer was built with LibTorch ", TORCH_VERSION,
                                            ", but names its numerics after ", kNumericsLibTorch));
  }
  for (const TrainingNumerics& numerics : NumericsOf(device)) {
    if (numerics.dtype != NameOf(dtype)) continue;
    if (device.signature.empty() || SameBits(numerics, device.signature)) return numerics.name;
    return WorkerUnfit(
        absl::StrCat("this trainer computes with the numerics '", numerics.name,
                     "', the job is pinned to '", device.signature,
                     "', which this worker's agent has: give the worker an agent and a trainer ",
                     "of one build"));
  }
  return WorkerUnfit(absl::StrCat("this device does not train with ", NameOf(dtype)));
}

}  // namespace mindforge
