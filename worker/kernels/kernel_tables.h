// Names of the per-instruction-set tables, for the dispatcher alone.
#pragma once

#include "worker/kernels/train_kernels.h"

#define MINDFORGE_DECLARE_KERNEL_TABLES(isa)       \
  const TrainKernels<float>& FloatKernels_##isa(); \
  const TrainKernels<Bf16>& Bf16Kernels_##isa();   \
  const OptimizerKernels& OptimizerKernels_##isa();

#define MINDFORGE_DEFINE_KERNEL_TABLES(isa)                                  \
  const TrainKernels<float>& FloatKernels_##isa() {                          \
    static const TrainKernels<float> table = isa::MakeTrainKernels<float>(); \
    return table;                                                            \
  }                                                                          \
  const TrainKernels<Bf16>& Bf16Kernels_##isa() {                            \
    static const TrainKernels<Bf16> table = isa::MakeTrainKernels<Bf16>();   \
    return table;                                                            \
  }                                                                          \
  const OptimizerKernels& OptimizerKernels_##isa() {                         \
    static const OptimizerKernels table = isa::MakeOptimizerKernels();       \
    return table;                                                            \
  }

namespace mindforge {

MINDFORGE_DECLARE_KERNEL_TABLES(baseline)
MINDFORGE_DECLARE_KERNEL_TABLES(avx2)
MINDFORGE_DECLARE_KERNEL_TABLES(avx512)
// AVX512-BF16: the avx512 tables with attention in bfloat16 products.
const TrainKernels<Bf16>& Bf16Kernels_avx512bf16();

}  // namespace mindforge
