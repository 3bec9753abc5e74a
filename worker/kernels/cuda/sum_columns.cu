#include "worker/kernels/cuda/reduce.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kColumns = 8;  // of a block: one 32-byte sector a row
constexpr int kSumLanes = 64;

// Lane r sums rows r, r + kSumLanes, …; then the lanes' sums are added in order.
__global__ void __launch_bounds__(kColumns* kSumLanes)
    SumColumnsKernel(int64_t rows, int64_t columns, int64_t stride, const float* partials,
                     float* out) {
  __shared__ float sums[kSumLanes][kColumns];
  const int lane = static_cast<int>(threadIdx.x) / kColumns;
  const int at = static_cast<int>(threadIdx.x) % kColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + at;
  float sum = 0;
  if (column < columns) {
#pragma unroll 16
    for (int64_t row = lane; row < rows; row += kSumLanes) sum += partials[row * stride + column];
  }
  sums[lane][at] = sum;
  __syncthreads();
  if (lane != 0 || column >= columns) return;
#pragma unroll 16
  for (int i = 1; i < kSumLanes; ++i) sum += sums[i][at];
  out[column] = sum;
}

}  // namespace

void SumColumns(cudaStream_t stream, int64_t rows, int64_t columns, int64_t stride,
                const float* partials, float* out) {
  if (columns == 0) return;
  SumColumnsKernel<<<Blocks(columns, kColumns), kColumns * kSumLanes, 0, stream>>>(
      rows, columns, stride, partials, out);
}

}  // namespace mindforge::cuda
