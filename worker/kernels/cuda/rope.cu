// Rotary position embedding in place: a thread turns kWide pairs (i, i + head_dim / 2) of a head.
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/vector.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;

struct RopeShape {
  int64_t n;
  const int32_t* positions;
  int64_t heads;
  int64_t half;
  int64_t stride;
  const float* cos;
  const float* sin;
  float sign;
};

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) RopeKernel(RopeShape s, T* x) {
  const int64_t pieces = s.half / V;
  const auto [row, in_row] = Divide(ThreadIndex(), s.heads * pieces);
  if (row >= s.n) return;
  const auto [head, piece] = Divide(in_row, pieces);
  T* low = x + row * s.stride + head * 2 * s.half + piece * V;
  T* high = low + s.half;
  const int64_t at = s.positions[row] * s.half + piece * V;
  float a[V], b[V], cosine[V], sine[V];
  Load(low, a);
  Load(high, b);
  Load(s.cos + at, cosine);
  Load(s.sin + at, sine);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float turned = sine[i] * s.sign;
    const float first = a[i] * cosine[i] - b[i] * turned;
    b[i] = b[i] * cosine[i] + a[i] * turned;
    a[i] = first;
  }
  Store(low, a);
  Store(high, b);
}

}  // namespace

template <typename T>
void Rope(const Parallel& parallel, int64_t n, const int32_t* positions, int64_t heads,
          int64_t head_dim, int64_t stride, const float* cos, const float* sin, float sign, T* x) {
  const RopeShape s{n, positions, heads, head_dim / 2, stride, cos, sin, sign};
  const int64_t pairs = n * heads * s.half;
  if (pairs == 0) return;
  constexpr int V = kWide<T>;
  if (s.half % V == 0 && stride % V == 0 && Aligned(16, cos, sin, x)) {
    RopeKernel<T, V><<<Blocks(pairs / V, kThreads), kThreads, 0, Stream(parallel)>>>(s, x);
  } else {
    RopeKernel<T, 1><<<Blocks(pairs, kThreads), kThreads, 0, Stream(parallel)>>>(s, x);
  }
}

#define MINDFORGE_INSTANTIATE_ROPE(T)                                                     \
  template void Rope(const Parallel&, int64_t, const int32_t*, int64_t, int64_t, int64_t, \
                     const float*, const float*, float, T*);
MINDFORGE_INSTANTIATE_ROPE(float)
MINDFORGE_INSTANTIATE_ROPE(Bf16)
MINDFORGE_INSTANTIATE_ROPE(Half)

}  // namespace mindforge::cuda
