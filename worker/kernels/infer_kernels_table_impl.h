// The tables of the decoding kernels of one instruction set. What the including file defines first,
// infer_kernels_impl.h says.
#pragma once

#include "worker/kernels/infer_kernels_impl.h"
#include "worker/kernels/infer_kernels_tables.h"

namespace mindforge {
namespace {

template <typename T>
void FillTable(InferKernels& kernels) {
  kernels.element_bytes = sizeof(typename T::Element);
  kernels.matmul = &Matmul<T>;
  kernels.swiglu = &Swiglu<T>;
  kernels.rms_norm = &RmsNorm<T>;
  kernels.softmax = &Softmax;
  kernels.place = &Place<T>;
  kernels.attend = &Attend<T>;
}

// `bf16_numerics`: how this instruction set multiplies bfloat16. Float32 has one order everywhere.
inline InferKernels MakeTable(InferDtype dtype, const char* bf16_numerics) {
  InferKernels kernels;
  if (dtype == InferDtype::kFloat32) {
    kernels.numerics = kNumericsFloat32;
    FillTable<Float32>(kernels);
  } else {
    kernels.numerics = bf16_numerics;
    FillTable<Bfloat16>(kernels);
  }
  return kernels;
}

}  // namespace
}  // namespace mindforge
