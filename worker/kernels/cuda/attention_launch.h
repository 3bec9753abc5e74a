// Who computes attention of one storage type: the tensor-core kernels of one head_dim each, or the
// exact ones. Every function enqueues and returns.
#pragma once

#include "worker/kernels/cuda/attention_shape.cuh"

namespace mindforge::cuda {

template <typename T>
struct AttentionInputs {
  const T *q, *k, *v;
};
template <typename T>
struct AttentionGradients {
  const T* out;
  const float* log2_sum;
  const T* d_out;
  T *dq, *dk, *dv;
  float* delta;  // [heads, tokens], written
};

template <typename T, int kDim>
void TensorForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                   float* log2_sum);
template <typename T, int kDim>
void TensorBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                    const AttentionGradients<T>& gradients);
// Head_dim 64 on Hopper, without dropout and key masks. False: nothing was enqueued, because the
// device is another or takes no tensor maps.
template <typename T>
bool HopperForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                   float* log2_sum);
template <typename T>
bool HopperBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                    const AttentionGradients<T>& gradients);
template <typename T>
void ExactForward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in, T* out,
                  float* log2_sum);
template <typename T>
void ExactBackward(cudaStream_t stream, const Attention& s, const AttentionInputs<T>& in,
                   const AttentionGradients<T>& gradients);

}  // namespace mindforge::cuda
