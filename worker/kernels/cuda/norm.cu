// Residual addition with RMSNorm, and the norm's backward: a warp a row, the row in its registers,
// lane l holding the quads l, l + 32, …. Weight gradients are summed over blocks of kNormBlockRows
// rows, then over the blocks.
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;

template <typename T, int K, bool kDelta>
__global__ void __launch_bounds__(kThreads)
    AddNormKernel(int64_t n, int64_t c, const float* residual, const T* delta, const float* w,
                  float eps, float* h, float* rstd, T* y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (row >= n) return;
  const int first = static_cast<int>(threadIdx.x) % kLanes * 4;
  const int64_t at = row * c + first;
  float x[K][4] = {};
  float added[K][4] = {};
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (first + 128 * k >= c) continue;
    Load(residual + at + 128 * k, x[k]);
    if constexpr (kDelta) Load(delta + at + 128 * k, added[k]);
  }
  float squares = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[k][i] += added[k][i];
      squares += x[k][i] * x[k][i];
    }
  }
  const float scale = 1.0f / sqrtf(LaneSum(squares) / static_cast<float>(c) + eps);
  if (first == 0) rstd[row] = scale;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (first + 128 * k >= c) continue;
    if (h != nullptr) Store(h + at + 128 * k, x[k]);
    float weight[4];
    Load(w + first + 128 * k, weight);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[k][i] *= scale * weight[i];
    Store(y + at + 128 * k, x[k]);
  }
}

// Any width and alignment.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    AddNormAnyKernel(int64_t n, int64_t c, const float* residual, const T* delta, const float* w,
                     float eps, float* h, float* rstd, T* y) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (row >= n) return;
  const int64_t lane = threadIdx.x % kLanes;
  const float* x = residual + row * c;
  float squares = 0;
  for (int64_t i = lane; i < c; i += kLanes) {
    float v = x[i];
    if (delta != nullptr) v += ToFloat(delta[row * c + i]);
    if (h != nullptr) h[row * c + i] = v;
    squares += v * v;
  }
  if (delta != nullptr) x = h + row * c;
  const float scale = 1.0f / sqrtf(LaneSum(squares) / static_cast<float>(c) + eps);
  if (lane == 0) rstd[row] = scale;
  for (int64_t i = lane; i < c; i += kLanes) {
    const float v[1] = {x[i] * (scale * w[i])};
    Store(y + row * c + i, v);
  }
}

struct NormGradient {
  int64_t n;
  int64_t c;
  const float* h;
  const float* rstd;
  const float* w;
  bool accumulate;
  float* dh;
  float* partials;  // null: no weight gradient
};

// A block takes kNormBlockRows rows; its warps' sums of dw meet in shared memory, [warps, c].
template <typename T, int K, int kBlockWarps>
__global__ void __launch_bounds__(kBlockWarps* kLanes)
    NormBackwardKernel(NormGradient g, const T* dy, T* dh_cast) {
  extern __shared__ float of_warp[];
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int first = static_cast<int>(threadIdx.x) % kLanes * 4;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kNormBlockRows;
  float dw[K][4] = {};
#pragma unroll 1
  for (int j = warp; j < kNormBlockRows; j += kBlockWarps) {
    const int64_t row = block + j;
    if (row >= g.n) break;
    const int64_t at = row * g.c + first;
    float normal[K][4] = {}, through[K][4] = {}, old[K][4] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (first + 128 * k >= g.c) continue;
      Load(dy + at + 128 * k, through[k]);
      Load(g.h + at + 128 * k, normal[k]);
      if (g.accumulate) Load(g.dh + at + 128 * k, old[k]);
    }
    const float rstd = g.rstd[row];
    float dot = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      float weight[4] = {};
      if (first + 128 * k < g.c) Load(g.w + first + 128 * k, weight);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        normal[k][i] *= rstd;
        dw[k][i] += through[k][i] * normal[k][i];
        through[k][i] *= weight[i];
        dot += through[k][i] * normal[k][i];
      }
    }
    const float mean = LaneSum(dot) / static_cast<float>(g.c);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (first + 128 * k >= g.c) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        old[k][i] += (through[k][i] - normal[k][i] * mean) * rstd;
      }
      Store(g.dh + at + 128 * k, old[k]);
      if (dh_cast != nullptr) Store(dh_cast + at + 128 * k, old[k]);
    }
  }
  if (g.partials == nullptr) return;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (first + 128 * k < g.c) Store(of_warp + warp * g.c + first + 128 * k, dw[k]);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < g.c; i += kBlockWarps * kLanes) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kBlockWarps; ++j) sum += of_warp[j * g.c + i];
    g.partials[blockIdx.x * g.c + i] = sum;
  }
}

// Any width and alignment: one warp a block of rows, its weight gradient in the partials.
template <typename T>
__global__ void NormBackwardAnyKernel(NormGradient g, const T* dy, T* dh_cast) {
  const int64_t lane = threadIdx.x;
  float* dw = g.partials == nullptr ? nullptr : g.partials + blockIdx.x * g.c;
  for (int64_t i = lane; i < g.c && dw != nullptr; i += kLanes) dw[i] = 0;
  for (int j = 0; j < kNormBlockRows; ++j) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kNormBlockRows + j;
    if (row >= g.n) break;
    const float rstd = g.rstd[row];
    float dot = 0;
    for (int64_t i = lane; i < g.c; i += kLanes) {
      const float through = ToFloat(dy[row * g.c + i]) * (g.h[row * g.c + i] * rstd);
      dot += through * g.w[i];
      if (dw != nullptr) dw[i] += through;
    }
    const float mean = LaneSum(dot) / static_cast<float>(g.c);
    for (int64_t i = lane; i < g.c; i += kLanes) {
      const int64_t at = row * g.c + i;
      float v[1] = {(ToFloat(dy[at]) * g.w[i] - g.h[at] * rstd * mean) * rstd};
      if (g.accumulate) v[0] += g.dh[at];
      g.dh[at] = v[0];
      if (dh_cast != nullptr) Store(dh_cast + at, v);
    }
  }
}

template <typename T, int K>
void LaunchAddNorm(cudaStream_t stream, int64_t n, int64_t c, const float* residual, const T* delta,
                   const float* w, float eps, float* h, float* rstd, T* y) {
  if (delta != nullptr) {
    AddNormKernel<T, K, true>
        <<<Blocks(n, kWarps), kThreads, 0, stream>>>(n, c, residual, delta, w, eps, h, rstd, y);
  } else {
    AddNormKernel<T, K, false>
        <<<Blocks(n, kWarps), kThreads, 0, stream>>>(n, c, residual, delta, w, eps, h, rstd, y);
  }
}

template <typename T, int K, int kBlockWarps>
void LaunchNormBackward(cudaStream_t stream, const NormGradient& g, const T* dy, T* dh_cast) {
  const auto shared = static_cast<size_t>(kBlockWarps * g.c) * sizeof(float);
  NormBackwardKernel<T, K, kBlockWarps>
      <<<Blocks(g.n, kNormBlockRows), kBlockWarps * kLanes, shared, stream>>>(g, dy, dh_cast);
}

}  // namespace

template <typename T>
void AddNorm(const Parallel& parallel, int64_t n, int64_t c, const float* residual, const T* delta,
             const float* w, float eps, float* h, float* rstd, T* y) {
  if (n == 0) return;
  cudaStream_t stream = Stream(parallel);
  if (delta == nullptr && h == residual) h = nullptr;
  const bool quads = c % 4 == 0 && Aligned(16, residual, w, h) && Aligned(4 * sizeof(T), delta, y);
  const auto launch = !quads || c > 2048 ? nullptr
                      : c <= 512         ? &LaunchAddNorm<T, 4>
                      : c <= 768         ? &LaunchAddNorm<T, 6>
                      : c <= 1024        ? &LaunchAddNorm<T, 8>
                                         : &LaunchAddNorm<T, 16>;
  if (launch != nullptr) {
    launch(stream, n, c, residual, delta, w, eps, h, rstd, y);
  } else {
    AddNormAnyKernel<T>
        <<<Blocks(n, kWarps), kThreads, 0, stream>>>(n, c, residual, delta, w, eps, h, rstd, y);
  }
}

template <typename T>
void NormBackward(const Parallel& parallel, int64_t n, int64_t c, const T* dy, const float* h,
                  const float* rstd, const float* w, bool accumulate, float* dh, T* dh_cast,
                  float* dw, float* partials) {
  cudaStream_t stream = Stream(parallel);
  if (dw == nullptr) partials = nullptr;
  const NormGradient g{n, c, h, rstd, w, accumulate, dh, partials};
  const bool quads = c % 4 == 0 && Aligned(16, h, w, dh) && Aligned(4 * sizeof(T), dy, dh_cast);
  const auto launch = !quads || c > 2048 ? nullptr
                      : c <= 512         ? &LaunchNormBackward<T, 4, 8>
                      : c <= 768         ? &LaunchNormBackward<T, 6, 8>
                      : c <= 1024        ? &LaunchNormBackward<T, 8, 8>
                                         : &LaunchNormBackward<T, 16, 4>;
  if (n > 0 && launch != nullptr) {
    launch(stream, g, dy, dh_cast);
  } else if (n > 0) {
    NormBackwardAnyKernel<T><<<Blocks(n, kNormBlockRows), kLanes, 0, stream>>>(g, dy, dh_cast);
  }
  if (dw != nullptr) SumColumns(stream, NormPartials(n), c, c, partials, dw);
}

#define MINDFORGE_INSTANTIATE_NORM(T)                                                            \
  template void AddNorm(const Parallel&, int64_t, int64_t, const float*, const T*, const float*, \
                        float, float*, float*, T*);                                              \
  template void NormBackward(const Parallel&, int64_t, int64_t, const T*, const float*,          \
                             const float*, const float*, bool, float*, T*, float*, float*);
MINDFORGE_INSTANTIATE_NORM(float)
MINDFORGE_INSTANTIATE_NORM(Bf16)
MINDFORGE_INSTANTIATE_NORM(Half)

}  // namespace mindforge::cuda
