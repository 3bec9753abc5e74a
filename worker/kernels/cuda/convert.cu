// Casts between float32 and the storage types, four elements an access.
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/vector.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAccesses = 4;  // of a thread, all in flight at once

template <typename From, typename To, int V>
__global__ void __launch_bounds__(kThreads) ConvertKernel(int64_t size, const From* x, To* y) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads * kAccesses + threadIdx.x) * V;
  float v[kAccesses][V];
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    const int64_t i = first + int64_t{j} * kThreads * V;
    if (i + V <= size) Load(x + i, v[j]);
  }
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    const int64_t i = first + int64_t{j} * kThreads * V;
    if (i + V <= size) Store(y + i, v[j]);
  }
  const int64_t rest = size - size % V + threadIdx.x;
  if (blockIdx.x == 0 && rest < size) {
    float one[1];
    Load(x + rest, one);
    Store(y + rest, one);
  }
}

template <typename From, typename To>
void Convert(const Parallel& parallel, int64_t size, const From* x, To* y) {
  if (size == 0) return;
  if (Aligned(4 * sizeof(From), x) && Aligned(4 * sizeof(To), y)) {
    ConvertKernel<From, To, 4>
        <<<Blocks(size, kThreads * kAccesses * 4), kThreads, 0, Stream(parallel)>>>(size, x, y);
  } else {
    ConvertKernel<From, To, 1>
        <<<Blocks(size, kThreads * kAccesses), kThreads, 0, Stream(parallel)>>>(size, x, y);
  }
}

}  // namespace

template <typename T>
void FromFloat(const Parallel& parallel, int64_t size, const float* x, T* y) {
  Convert(parallel, size, x, y);
}
template <typename T>
void ConvertToFloat(const Parallel& parallel, int64_t size, const T* x, float* y) {
  Convert(parallel, size, x, y);
}

#define MINDFORGE_INSTANTIATE_CONVERT(T)                               \
  template void FromFloat(const Parallel&, int64_t, const float*, T*); \
  template void ConvertToFloat(const Parallel&, int64_t, const T*, float*);
MINDFORGE_INSTANTIATE_CONVERT(float)
MINDFORGE_INSTANTIATE_CONVERT(Bf16)
MINDFORGE_INSTANTIATE_CONVERT(Half)

}  // namespace mindforge::cuda
