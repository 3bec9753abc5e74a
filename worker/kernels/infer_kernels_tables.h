// The per-instruction-set entry points of infer_kernels.cc. Each lives in a file compiled with that
// set's flags.
#pragma once

#include "worker/kernels/infer_kernels.h"

namespace mindforge {

InferKernels ScalarInferKernels(InferDtype dtype);
InferKernels Avx2InferKernels(InferDtype dtype);
InferKernels Avx512InferKernels(InferDtype dtype);
InferKernels Avx512Bf16InferKernels(InferDtype dtype);

inline constexpr char kNumericsFloat32[] = "cpu-f32-1";
inline constexpr char kNumericsBf16Fma[] = "cpu-bf16-fma-1";
inline constexpr char kNumericsBf16Dot[] = "cpu-bf16-dot-1";

}  // namespace mindforge
