// The gradient's norm, the verdict on an update, and AdamW with the 16-bit recast in one pass.
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kJudges = 1024;

// A block sums kSquareBlock squares: 32 a thread in float32, then in float64.
template <int V>
__global__ void __launch_bounds__(kThreads)
    SumSquaresKernel(int64_t size, const float* x, double* sums) {
  constexpr int kLoads = static_cast<int>(kSquareBlock) / (kThreads * V);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSquareBlock + threadIdx.x * V;
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int64_t i = first + j * kThreads * V;
    if (i + V <= size) {
      float v[V];
      Load(x + i, v);
#pragma unroll
      for (int k = 0; k < V; ++k) sum += v[k] * v[k];
    } else {
      for (int64_t rest = i; rest < size; ++rest) sum += x[rest] * x[rest];
    }
  }
  const double total = BlockSum(static_cast<double>(sum));
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kJudges)
    JudgeKernel(int64_t blocks, const double* sums, double scale, double clip_norm,
                CudaUpdateVerdict* verdict) {
  double mine = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < blocks; i += kJudges) mine += sums[i];
  const double squares = BlockSum(mine);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(squares) * scale;
  double clipped = scale;
  if (clip_norm > 0) clipped *= fmin(1.0, clip_norm / (norm + 1e-6));
  *verdict = {norm, static_cast<float>(clipped), isfinite(norm) ? 1 : 0};
}

struct AdamWBuffers {
  const float* gradient;
  float* parameters;
  float* m;
  float* v;
};

template <typename T, int V>
__device__ inline void AdamWPiece(const AdamWScalars& s, float scale, const AdamWBuffers& b,
                                  int64_t i, T* copy) {
  float g[V], p[V], m[V], v[V];
  Load(b.gradient + i, g);
  Load(b.parameters + i, p);
  Load(b.m + i, m);
  Load(b.v + i, v);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    g[k] *= scale;
    m[k] += (g[k] - m[k]) * s.one_minus_beta1;
    v[k] = v[k] * s.beta2 + g[k] * g[k] * s.one_minus_beta2;
    const float denominator = sqrtf(v[k]) * s.inverse_bias2 + s.epsilon;
    p[k] = p[k] * s.decay - s.step_size * m[k] / denominator;
  }
  Store(b.m + i, m);
  Store(b.v + i, v);
  Store(b.parameters + i, p);
  if (copy != nullptr) Store(copy + i, p);
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    AdamWKernel(int64_t size, AdamWScalars s, const CudaUpdateVerdict* verdict, AdamWBuffers b,
                T* copy) {
  float scale = s.gradient_scale;
  if (verdict != nullptr) {
    if (verdict->apply == 0) return;
    scale = verdict->gradient_scale;
  }
  const int64_t i = ThreadIndex() * V;
  if (i + V <= size) {
    AdamWPiece<T, V>(s, scale, b, i, copy);
  } else {
    for (int64_t rest = i; rest < size; ++rest) AdamWPiece<T, 1>(s, scale, b, rest, copy);
  }
}

template <typename T>
void LaunchAdamW(const Parallel& parallel, int64_t size, const AdamWScalars& scalars,
                 const CudaUpdateVerdict* verdict, const AdamWBuffers& b, T* copy) {
  if (size == 0) return;
  if (Aligned(16, b.gradient, b.parameters, b.m, b.v) && Aligned(4 * sizeof(T), copy)) {
    AdamWKernel<T, 4><<<Blocks(size, kThreads * 4), kThreads, 0, Stream(parallel)>>>(
        size, scalars, verdict, b, copy);
  } else {
    AdamWKernel<T, 1><<<Blocks(size, kThreads), kThreads, 0, Stream(parallel)>>>(size, scalars,
                                                                                 verdict, b, copy);
  }
}

}  // namespace

void SumSquares(const Parallel& parallel, int64_t size, const float* x, double* sums) {
  if (size == 0) return;
  const auto kernel = Aligned(16, x) ? &SumSquaresKernel<4> : &SumSquaresKernel<1>;
  kernel<<<Blocks(size, kSquareBlock), kThreads, 0, Stream(parallel)>>>(size, x, sums);
}

void AdamW(const Parallel& parallel, int64_t size, const AdamWScalars& scalars,
           const float* gradient, float* parameters, float* m, float* v, Bf16* copy) {
  LaunchAdamW(parallel, size, scalars, nullptr, {gradient, parameters, m, v}, copy);
}

}  // namespace mindforge::cuda

namespace mindforge {

void CudaJudgeUpdate(const Parallel& parallel, int64_t size, const double* sums, double scale,
                     double clip_norm, CudaUpdateVerdict* verdict) {
  const int64_t blocks = (size + kSquareBlock - 1) / kSquareBlock;
  cuda::JudgeKernel<<<1, cuda::kJudges, 0, cuda::Stream(parallel)>>>(blocks, sums, scale, clip_norm,
                                                                     verdict);
}

template <typename T>
void CudaAdamW(const Parallel& parallel, int64_t size, const AdamWScalars& scalars,
               const CudaUpdateVerdict* verdict, const float* gradient, float* parameters, float* m,
               float* v, T* copy) {
  cuda::LaunchAdamW(parallel, size, scalars, verdict, {gradient, parameters, m, v}, copy);
}
template void CudaAdamW(const Parallel&, int64_t, const AdamWScalars&, const CudaUpdateVerdict*,
                        const float*, float*, float*, float*, Bf16*);
template void CudaAdamW(const Parallel&, int64_t, const AdamWScalars&, const CudaUpdateVerdict*,
                        const float*, float*, float*, float*, Half*);

}  // namespace mindforge
