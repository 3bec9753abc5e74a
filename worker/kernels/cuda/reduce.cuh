// Sums in an order that the shapes alone decide.
#pragma once

#include "worker/kernels/cuda/vector.cuh"

namespace mindforge::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kLanes = 32;

// The sum over each group of `lanes` (a power of 2) neighbouring lanes, in all of them.
template <typename F>
__device__ inline F LaneSum(F x, int lanes = kLanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, offset);
  }
  return x;
}
__device__ inline float LaneMax(float x) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  }
  return x;
}

// The sum over a block's threads (whole warps), in thread 0. Once a kernel.
template <typename F>
__device__ inline F BlockSum(F x) {
  __shared__ F of_warp[kLanes];
  x = LaneSum(x);
  const int warps = static_cast<int>(blockDim.x) / kLanes;
  if (threadIdx.x % kLanes == 0) of_warp[threadIdx.x / kLanes] = x;
  __syncthreads();
  if (threadIdx.x != 0) return 0;
  F sum = 0;
  for (int i = 0; i < warps; ++i) sum += of_warp[i];
  return sum;
}

// out[columns] = the sum of `rows` rows of partials, `stride` floats from one to the next. Rows of
// zeros behind the last change no bit.
void SumColumns(cudaStream_t stream, int64_t rows, int64_t columns, int64_t stride,
                const float* partials, float* out);

}  // namespace mindforge::cuda
