// SwiGLU and its backward: a thread takes 16 bytes of gate and the same of up.
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    SwiGluKernel(int64_t n, int64_t c, const float* row_scale, const T* gate_up, T* a) {
  const auto [row, piece] = Divide(ThreadIndex(), c / V);
  if (row >= n) return;
  const T* from = gate_up + row * 2 * c + piece * V;
  float gate[V], up[V];
  Load(from, gate);
  Load(from + c, up);
  const float scale = row_scale == nullptr ? 1.0f : row_scale[row];
#pragma unroll
  for (int i = 0; i < V; ++i) gate[i] *= Sigmoid<T>(gate[i]) * up[i] * scale;
  Store(a + row * c + piece * V, gate);
}

// The gradients of V elements; returns Σ da · silu(gate) · up, the share of the row's scale.
template <typename T, int V>
__device__ float BackwardPiece(int64_t c, float scale, const T* da, T* gate_up, T* a) {
  float d[V], gate[V], up[V];
  Load(da, d);
  Load(gate_up, gate);
  Load(gate_up + c, up);
  float dot = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float sigmoid = Sigmoid<T>(gate[i]);
    const float silu = gate[i] * sigmoid;
    const float product = silu * up[i];
    dot += d[i] * product;
    const float scaled = d[i] * scale;
    gate[i] = scaled * up[i] * (sigmoid + silu * (1.0f - sigmoid));
    up[i] = scaled * silu;
    d[i] = product * scale;
  }
  Store(gate_up, gate);
  Store(gate_up + c, up);
  Store(a, d);
  return dot;
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    SwiGluBackwardKernel(int64_t n, int64_t c, const float* row_scale, const T* da, T* gate_up,
                         T* a) {
  const auto [row, piece] = Divide(ThreadIndex(), c / V);
  if (row >= n) return;
  const int64_t at = row * c + piece * V;
  const float scale = row_scale == nullptr ? 1.0f : row_scale[row];
  BackwardPiece<T, V>(c, scale, da + at, gate_up + at + row * c, a + at);
}

// With the scale's gradient: a block a row.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    ScaledSwiGluBackwardKernel(int64_t c, const float* row_scale, const T* da, T* gate_up, T* a,
                               float* d_row_scale) {
  const int64_t row = blockIdx.x;
  const float scale = row_scale == nullptr ? 1.0f : row_scale[row];
  float dot = 0;
  for (int64_t i = threadIdx.x * V; i < c; i += kThreads * V) {
    const int64_t at = row * c + i;
    dot += BackwardPiece<T, V>(c, scale, da + at, gate_up + at + row * c, a + at);
  }
  dot = BlockSum(dot);
  if (threadIdx.x == 0) d_row_scale[row] = dot;
}

template <typename T, int V>
void LaunchBackward(cudaStream_t stream, int64_t n, int64_t c, const float* row_scale, const T* da,
                    T* gate_up, T* a, float* d_row_scale) {
  if (d_row_scale != nullptr) {
    ScaledSwiGluBackwardKernel<T, V><<<static_cast<unsigned>(n), kThreads, 0, stream>>>(
        c, row_scale, da, gate_up, a, d_row_scale);
  } else if (c > 0) {
    SwiGluBackwardKernel<T, V>
        <<<Blocks(n * c / V, kThreads), kThreads, 0, stream>>>(n, c, row_scale, da, gate_up, a);
  }
}

}  // namespace

template <typename T>
void SwiGlu(const Parallel& parallel, int64_t n, int64_t c, const float* row_scale,
            const T* gate_up, T* a) {
  if (n * c == 0) return;
  constexpr int V = kWide<T>;
  if (c % V == 0 && Aligned(16, gate_up, a)) {
    SwiGluKernel<T, V><<<Blocks(n * c / V, kThreads), kThreads, 0, Stream(parallel)>>>(
        n, c, row_scale, gate_up, a);
  } else {
    SwiGluKernel<T, 1>
        <<<Blocks(n * c, kThreads), kThreads, 0, Stream(parallel)>>>(n, c, row_scale, gate_up, a);
  }
}

template <typename T>
void SwiGluBackward(const Parallel& parallel, int64_t n, int64_t c, const float* row_scale,
                    const T* da, T* gate_up, T* a, float* d_row_scale) {
  if (n == 0) return;
  constexpr int V = kWide<T>;
  const bool wide = c % V == 0 && Aligned(16, da, gate_up, a);
  const auto launch = wide ? &LaunchBackward<T, V> : &LaunchBackward<T, 1>;
  launch(Stream(parallel), n, c, row_scale, da, gate_up, a, d_row_scale);
}

#define MINDFORGE_INSTANTIATE_SWIGLU(T)                                                           \
  template void SwiGlu(const Parallel&, int64_t, int64_t, const float*, const T*, T*);            \
  template void SwiGluBackward(const Parallel&, int64_t, int64_t, const float*, const T*, T*, T*, \
                               float*);
MINDFORGE_INSTANTIATE_SWIGLU(float)
MINDFORGE_INSTANTIATE_SWIGLU(Bf16)
MINDFORGE_INSTANTIATE_SWIGLU(Half)

}  // namespace mindforge::cuda
