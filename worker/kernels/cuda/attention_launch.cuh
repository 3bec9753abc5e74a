// Launches of the tensor-core kernels; instantiated once per head_dim in attention_d*.cu.
#pragma once

#include "worker/kernels/cuda/attention_backward.cuh"
#include "worker/kernels/cuda/attention_forward.cuh"
#include "worker/kernels/cuda/attention_launch.h"

namespace mindforge::cuda {

// A block gets more than 48 KiB of shared memory only when the kernel asks; what fails here fails
// the launch too, where the caller looks.
template <typename Kernel, typename... Arguments>
void Launch(Kernel kernel, unsigned grid, int threads, int bytes, cudaStream_t stream,
            Arguments... arguments) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<grid, threads, bytes, stream>>>(arguments...);
}

template <typename T, int kDim, bool kDrop>
void LaunchBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                    const AttentionGradients<T>& g) {
  using Queries = QueryPlace<QueryGradientTile<kDim>::kRows>;
  using Keys = KeyGradientTile<kDim>;
  Launch(QueryGradientKernel<T, kDim, kDrop>, Queries::Grid(s), kThreads,
         QueryGradientTile<kDim>::kBytes, stream, s, Queries::Chunks(s), in.q, in.k, in.v, g.out,
         g.log2_sum, g.d_out, g.dq, g.delta);
  Launch(KeyGradientKernel<T, kDim, kDrop>, Keys::Grid(s), kThreads, Keys::kBytes, stream, s,
         Keys::Chunks(s), in.q, in.k, in.v, g.log2_sum, g.d_out, g.delta, g.dk, g.dv);
}

template <typename T, int kDim>
void TensorForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                   float* log2_sum) {
  using Tile = ForwardTile<kDim>;
  using Queries = QueryPlace<Tile::kRows>;
  const auto kernel = s.drops ? ForwardKernel<T, kDim, true> : ForwardKernel<T, kDim, false>;
  Launch(kernel, Queries::Grid(s), kThreads, Tile::kBytes, stream, s, Queries::Chunks(s), in.q,
         in.k, in.v, out, log2_sum);
}

template <typename T, int kDim>
void TensorBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                    const AttentionGradients<T>& gradients) {
  if (s.drops) {
    LaunchBackward<T, kDim, true>(stream, s, in, gradients);
  } else {
    LaunchBackward<T, kDim, false>(stream, s, in, gradients);
  }
}

}  // namespace mindforge::cuda
