// Causal grouped-query attention and its backward on a CUDA device; see TrainKernels in
// worker/kernels/train_kernels.h for what each computes. Bf16 and Half of head_dim 32, 64, 80, 96
// and 128 run on tensor cores when q, k, v, out and their strides are multiples of 16 bytes;
// everything else is computed in float32. A shape's bits depend on nothing but the shape and the
// card's compute capability.
#pragma once

#include <stdint.h>

#include "worker/kernels/parallel.h"
#include "worker/kernels/train_kernels.h"

namespace mindforge {

template <typename T>
int64_t CudaAttentionWorkspace(const AttentionShape<T>& shape);
template <typename T>
int64_t CudaAttentionBackwardWorkspace(const AttentionShape<T>& shape);
template <typename T>
void CudaAttention(const Parallel& parallel, const AttentionShape<T>& shape, const T* q, const T* k,
                   const T* v, T* out, float* log2_sum, float* workspace);
template <typename T>
void CudaAttentionBackward(const Parallel& parallel, const AttentionShape<T>& shape, const T* q,
                           const T* k, const T* v, const T* out, const float* log2_sum,
                           const T* d_out, T* dq, T* dk, T* dv, float* workspace);

}  // namespace mindforge
