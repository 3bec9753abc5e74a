// Cross entropy: a block a row, the row in its registers between one read and one write in place.
#include <math_constants.h>

#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge::cuda {
namespace {

constexpr int kPieces = 5;  // of 16 bytes a thread: 160 threads hold 6,400 bfloat16 logits
constexpr int kMaxThreads = 1024;

// Each warp's largest logit and its sum of e^(logit - that), merged to the row's.
struct RowSum {
  float top;
  float sum;
};
__device__ inline RowSum MergeWarps(float top, float sum) {
  __shared__ float tops[kLanes], sums[kLanes];
  if (threadIdx.x % kLanes == 0) {
    tops[threadIdx.x / kLanes] = top;
    sums[threadIdx.x / kLanes] = sum;
  }
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kLanes;
  RowSum row{tops[0], 0};
  for (int i = 1; i < warps; ++i) row.top = fmaxf(row.top, tops[i]);
  for (int i = 0; i < warps; ++i) row.sum += sums[i] * expf(tops[i] - row.top);
  return row;
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    CrossEntropyKernel(int64_t c, const int64_t* targets, const uint8_t* mask, float scale,
                       T* logits, float* row_loss) {
  constexpr int V = kWide<T>;
  const int64_t row = blockIdx.x;
  logits += row * c;
  const int threads = static_cast<int>(blockDim.x);
  const int first = static_cast<int>(threadIdx.x) * V;
  if (mask != nullptr && mask[row] == 0) {
    const float zeros[V] = {};
    for (int i = first; i < c; i += threads * V) Store(logits + i, zeros);
    if (threadIdx.x == 0) row_loss[row] = 0;
    return;
  }
  const int64_t target = targets[row];
  const float target_logit = ToFloat(logits[target]);  // read by all before any writes, below
  float x[kPieces][V];
  float top = -CUDART_INF_F;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const int i = first + k * threads * V;
    if (i < c) {
      Load(logits + i, x[k]);
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) x[k][j] = -CUDART_INF_F;
    }
  }
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
#pragma unroll
    for (int j = 0; j < V; ++j) top = fmaxf(top, x[k][j]);
  }
  top = LaneMax(top);
  const float base = top == -CUDART_INF_F ? 0.0f : top;
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      x[k][j] = Exp<T>(x[k][j] - base);
      sum += x[k][j];
    }
  }
  const RowSum all = MergeWarps(top, LaneSum(sum));
  const float factor = expf(top - all.top) * (scale / all.sum);
  if (threadIdx.x == 0) row_loss[row] = logf(all.sum) + all.top - target_logit;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const int i = first + k * threads * V;
    if (i >= c) continue;
    const int at = static_cast<int>(target) - i;
#pragma unroll
    for (int j = 0; j < V; ++j) x[k][j] = x[k][j] * factor - (j == at ? scale : 0.0f);
    Store(logits + i, x[k]);
  }
}

// Any width and alignment: three passes over the row.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    CrossEntropyAnyKernel(int64_t c, const int64_t* targets, const uint8_t* mask, float scale,
                          T* logits, float* row_loss) {
  const int64_t row = blockIdx.x;
  logits += row * c;
  if (mask != nullptr && mask[row] == 0) {
    const float zero[1] = {0};
    for (int64_t i = threadIdx.x; i < c; i += blockDim.x) Store(logits + i, zero);
    if (threadIdx.x == 0) row_loss[row] = 0;
    return;
  }
  const int64_t target = targets[row];
  const float target_logit = ToFloat(logits[target]);
  float top = -CUDART_INF_F;
  for (int64_t i = threadIdx.x; i < c; i += blockDim.x) top = fmaxf(top, ToFloat(logits[i]));
  top = LaneMax(top);
  const float base = top == -CUDART_INF_F ? 0.0f : top;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < c; i += blockDim.x) sum += Exp<T>(ToFloat(logits[i]) - base);
  const RowSum all = MergeWarps(top, LaneSum(sum));
  const float factor = scale / all.sum;
  if (threadIdx.x == 0) row_loss[row] = logf(all.sum) + all.top - target_logit;
  for (int64_t i = threadIdx.x; i < c; i += blockDim.x) {
    const float v[1] = {Exp<T>(ToFloat(logits[i]) - all.top) * factor - (i == target ? scale : 0)};
    Store(logits + i, v);
  }
}

// Lane r sums rows r, r + 1024, …, so that rows of loss 0 behind the last change no bit.
__global__ void __launch_bounds__(kMaxThreads)
    SumLossesKernel(int64_t n, const float* row_loss, double scale, double* sum, float* scaled) {
  double mine = 0;
#pragma unroll 16
  for (int64_t row = threadIdx.x; row < n; row += kMaxThreads) {
    mine += static_cast<double>(row_loss[row]);
  }
  const double total = BlockSum(mine);
  if (threadIdx.x != 0) return;
  if (sum != nullptr) *sum = total;
  if (scaled != nullptr) *scaled = static_cast<float>(total * scale);
}

}  // namespace

template <typename T>
void CrossEntropy(const Parallel& parallel, int64_t n, int64_t c, const int64_t* targets,
                  const uint8_t* mask, float scale, T* logits, float* row_loss) {
  if (n == 0) return;
  constexpr int V = kWide<T>;
  const auto rows = static_cast<unsigned>(n);
  if (c % V == 0 && Aligned(16, logits) && c <= int64_t{kMaxThreads} * kPieces * V) {
    const unsigned threads = Blocks(c, kPieces * V * kLanes) * kLanes;
    CrossEntropyKernel<T>
        <<<rows, threads, 0, Stream(parallel)>>>(c, targets, mask, scale, logits, row_loss);
  } else {
    CrossEntropyAnyKernel<T>
        <<<rows, kMaxThreads, 0, Stream(parallel)>>>(c, targets, mask, scale, logits, row_loss);
  }
}

#define MINDFORGE_INSTANTIATE_CROSS_ENTROPY(T)                                                  \
  template void CrossEntropy(const Parallel&, int64_t, int64_t, const int64_t*, const uint8_t*, \
                             float, T*, float*);
MINDFORGE_INSTANTIATE_CROSS_ENTROPY(float)
MINDFORGE_INSTANTIATE_CROSS_ENTROPY(Bf16)
MINDFORGE_INSTANTIATE_CROSS_ENTROPY(Half)

}  // namespace mindforge::cuda

namespace mindforge {

void CudaSumLosses(const Parallel& parallel, int64_t n, const float* row_loss, double scale,
                   double* sum, float* scaled) {
  cuda::SumLossesKernel<<<1, cuda::kMaxThreads, 0, cuda::Stream(parallel)>>>(n, row_loss, scale,
                                                                             sum, scaled);
}

}  // namespace mindforge
