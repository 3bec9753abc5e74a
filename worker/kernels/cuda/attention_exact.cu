#include "worker/kernels/cuda/attention_exact.cuh"
#include "worker/kernels/cuda/attention_launch.h"

namespace mindforge::cuda {
namespace {

template <typename T, int kDim, int kTile>
void LaunchForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                   float* log2_sum) {
  const auto kernel = ExactForwardKernel<T, kDim, kTile>;
  constexpr int kBytes = Exact<kDim, kTile>::kForwardBytes;
  const unsigned grid = (s.length + kTile - 1) / kTile * s.batch * s.heads;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  kernel<<<grid, kExactThreads, kBytes, stream>>>(s, in.q, in.k, in.v, out, log2_sum);
}

template <typename T, int kDim, int kTile>
void LaunchBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                    const AttentionGradients<T>& g) {
  const auto queries = ExactQueryGradientKernel<T, kDim, kTile>;
  const auto keys = ExactKeyGradientKernel<T, kDim, kTile>;
  constexpr int kBytes = Exact<kDim, kTile>::kBackwardBytes;
  const unsigned tiles = (s.length + kTile - 1) / kTile;
  cudaFuncSetAttribute(queries, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  cudaFuncSetAttribute(keys, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  queries<<<tiles * s.batch * s.heads, kExactThreads, kBytes, stream>>>(
      s, in.q, in.k, in.v, g.out, g.log2_sum, g.d_out, g.dq, g.delta);
  keys<<<tiles * s.batch * s.kv_heads, kExactThreads, kBytes, stream>>>(
      s, in.q, in.k, in.v, g.log2_sum, g.d_out, g.delta, g.dk, g.dv);
}

}  // namespace

template <typename T>
void ExactForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                  float* log2_sum) {
  if (s.head_dim <= 64) return LaunchForward<T, 64, 64>(stream, s, in, out, log2_sum);
  if (s.head_dim <= 128) return LaunchForward<T, 128, 32>(stream, s, in, out, log2_sum);
  LaunchForward<T, 256, 16>(stream, s, in, out, log2_sum);
}

template <typename T>
void ExactBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                   const AttentionGradients<T>& gradients) {
  if (s.head_dim <= 64) return LaunchBackward<T, 64, 64>(stream, s, in, gradients);
  if (s.head_dim <= 128) return LaunchBackward<T, 128, 32>(stream, s, in, gradients);
  LaunchBackward<T, 256, 16>(stream, s, in, gradients);
}

template void ExactForward(cudaStream_t, const Attention&, const AttentionInputs<float>&, float*,
                           float*);
template void ExactForward(cudaStream_t, const Attention&, const AttentionInputs<Bf16>&, Bf16*,
                           float*);
template void ExactForward(cudaStream_t, const Attention&, const AttentionInputs<Half>&, Half*,
                           float*);
template void ExactBackward(cudaStream_t, const Attention&, const AttentionInputs<float>&,
                            const AttentionGradients<float>&);
template void ExactBackward(cudaStream_t, const Attention&, const AttentionInputs<Bf16>&,
                            const AttentionGradients<Bf16>&);
template void ExactBackward(cudaStream_t, const Attention&, const AttentionInputs<Half>&,
                            const AttentionGradients<Half>&);

}  // namespace mindforge::cuda
