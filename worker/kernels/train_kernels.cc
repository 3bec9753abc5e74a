#include "worker/kernels/train_kernels.h"

#include "worker/kernels/kernel_tables.h"

namespace mindforge {

CpuIsa DetectCpuIsa() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuIsa::kBaseline;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return CpuIsa::kAvx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512;
}

template <>
const TrainKernels<float>& GetTrainKernels<float>(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kBaseline:
      return FloatKernels_baseline();
    case CpuIsa::kAvx2:
      return FloatKernels_avx2();
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:
      break;
  }
  return FloatKernels_avx512();
}

template <>
const TrainKernels<Bf16>& GetTrainKernels<Bf16>(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kBaseline:
      return Bf16Kernels_baseline();
    case CpuIsa::kAvx2:
      return Bf16Kernels_avx2();
    case CpuIsa::kAvx512:
      return Bf16Kernels_avx512();
    case CpuIsa::kAvx512Bf16:
      break;
  }
  return Bf16Kernels_avx512bf16();
}

const OptimizerKernels& GetOptimizerKernels(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kBaseline:
      return OptimizerKernels_baseline();
    case CpuIsa::kAvx2:
      return OptimizerKernels_avx2();
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:
      break;
  }
  return OptimizerKernels_avx512();
}

}  // namespace mindforge
