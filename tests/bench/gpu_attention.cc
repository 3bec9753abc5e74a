// Times the CUDA column's attention on bf16 rows and prints milliseconds and TFLOP/s, the products
// below the diagonal counted: two forward, five backward.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/kernels/bits.h"
#include "worker/kernels/cuda/attention.h"

namespace mindforge {
namespace {

template <typename E>
E* Allocate(int64_t size) {
  void* p = nullptr;
  if (cudaMalloc(&p, static_cast<size_t>(size) * sizeof(E)) != cudaSuccess) std::abort();
  return static_cast<E*>(p);
}

Bf16* Random(int64_t size, uint64_t seed) {
  Bf16* p = Allocate<Bf16>(size);
  // Enough different values, repeated: drawing them all would take most of the program's time.
  const std::vector<uint16_t> bits = FixedBf16Bits(std::min<int64_t>(size, 1 << 22), seed, 2);
  for (int64_t at = 0; at < size; at += static_cast<int64_t>(bits.size())) {
    const int64_t count = std::min<int64_t>(size - at, static_cast<int64_t>(bits.size()));
    cudaMemcpy(p + at, bits.data(), static_cast<size_t>(count) * 2, cudaMemcpyHostToDevice);
  }
  return p;
}

// Milliseconds of one call: the median of 7 means of 10.
template <typename Function>
float Milliseconds(Function&& f) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 8; ++i) {
    cudaEventRecord(begin);
    for (int j = 0; j < 10; ++j) f();
    cudaEventRecord(end);
    if (cudaEventSynchronize(end) != cudaSuccess) std::abort();
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 0) times.push_back(ms / 10);
  }
  std::sort(times.begin(), times.end());
  return times[3];
}

void Time(int64_t batch, int64_t length, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  AttentionShape<Bf16> s;
  s.batch = batch;
  s.length = length;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = head_dim;
  s.stride = (heads + 2 * kv_heads) * head_dim;
  s.out_stride = heads * head_dim;
  s.tokens = batch * length;
  const int64_t k = heads * head_dim, v = k + kv_heads * head_dim;
  Bf16* qkv = Random(s.tokens * s.stride, 1);
  Bf16* d_out = Random(s.tokens * s.out_stride, 2);
  Bf16* out = Allocate<Bf16>(s.tokens * s.out_stride);
  Bf16* dqkv = Allocate<Bf16>(s.tokens * s.stride);
  float* log2_sum = Allocate<float>(s.tokens * heads);
  float* work = Allocate<float>(CudaAttentionBackwardWorkspace(s));
  const float forward = Milliseconds(
      [&] { CudaAttention<Bf16>({}, s, qkv, qkv + k, qkv + v, out, log2_sum, nullptr); });
  const float backward = Milliseconds([&] {
    CudaAttentionBackward<Bf16>({}, s, qkv, qkv + k, qkv + v, out, log2_sum, d_out, dqkv, dqkv + k,
                                dqkv + v, work);
  });
  const double gflop = 1e-9 * static_cast<double>(batch * heads * length * length * head_dim);
  std::printf(
      "%4ld x %-5ld heads %2ld/%-2ld d %-3ld  forward %.3f ms %4.0f TFLOP/s  "
      "backward %.3f ms %4.0f TFLOP/s\n",
      batch, length, heads, kv_heads, head_dim, forward, 2 * gflop / forward, backward,
      5 * gflop / backward);
  for (void* p :
       {static_cast<void*>(qkv), static_cast<void*>(d_out), static_cast<void*>(out),
        static_cast<void*>(dqkv), static_cast<void*>(log2_sum), static_cast<void*>(work)}) {
    cudaFree(p);
  }
}

}  // namespace
}  // namespace mindforge

int main() {
  using mindforge::Time;
  Time(128, 512, 8, 2, 64);
  Time(32, 512, 8, 2, 64);
  Time(64, 512, 12, 4, 64);
  Time(64, 512, 8, 4, 96);
  Time(64, 512, 16, 2, 128);
  Time(8, 4096, 8, 2, 64);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) std::printf("%s\n", cudaGetErrorString(error));
  return error == cudaSuccess ? 0 : 1;
}
