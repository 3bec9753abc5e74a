// Elements of training's storage types as floats, 16 bytes an access where addresses allow it.
// Conversions round to nearest even, as the CPU column's do.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <concepts>

#include "worker/kernels/train_kernels.h"

namespace mindforge::cuda {

// Elements of a 16-byte access.
template <typename T>
inline constexpr int kWide = 16 / sizeof(T);

__device__ inline float2 Unpack(uint32_t pair, Bf16) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
__device__ inline float2 Unpack(uint32_t pair, Half) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof(pair));
  return __half22float2(halves);
}
__device__ inline uint32_t Pack(float low, float high, Bf16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  uint32_t pair;
  memcpy(&pair, &both, sizeof(pair));
  return pair;
}
__device__ inline uint32_t Pack(float low, float high, Half) {
  const __half2 both = __floats2half2_rn(low, high);
  uint32_t pair;
  memcpy(&pair, &both, sizeof(pair));
  return pair;
}

__device__ inline float ToFloat(float x) { return x; }
template <typename T>
__device__ inline float ToFloat(T x) {
  return Unpack(x.bits, T{}).x;
}

// v = p[0 … N-1]; N 1, 4 or kWide<T>, p aligned to all of it.
template <int N>
__device__ inline void Load(const float* p, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = *p;
  } else {
    static_assert(N == 4);
    const float4 all = *reinterpret_cast<const float4*>(p);
    v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
  }
}
template <int N>
__device__ inline void Store(float* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    *p = v[0];
  } else {
    static_assert(N == 4);
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
  }
}

template <int N, typename T>
__device__ inline void Load(const T* p, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = ToFloat(*p);
  } else {
    uint32_t pairs[N / 2];
    if constexpr (N == 4) {
      const uint2 all = *reinterpret_cast<const uint2*>(p);
      pairs[0] = all.x, pairs[1] = all.y;
    } else {
      static_assert(N == 8);
      const uint4 all = *reinterpret_cast<const uint4*>(p);
      pairs[0] = all.x, pairs[1] = all.y, pairs[2] = all.z, pairs[3] = all.w;
    }
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float2 both = Unpack(pairs[i], T{});
      v[2 * i] = both.x;
      v[2 * i + 1] = both.y;
    }
  }
}
template <int N, typename T>
__device__ inline void Store(T* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    p->bits = static_cast<uint16_t>(Pack(v[0], 0, T{}));
  } else {
    uint32_t pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs[i] = Pack(v[2 * i], v[2 * i + 1], T{});
    if constexpr (N == 4) {
      *reinterpret_cast<uint2*>(p) = make_uint2(pairs[0], pairs[1]);
    } else {
      static_assert(N == 8);
      *reinterpret_cast<uint4*>(p) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
}

// The same for floats that lie beside kWide<T> elements of T: 8 of them are two accesses.
__device__ inline void Load(const float* p, float (&v)[8]) {
  float low[4], high[4];
  Load(p, low);
  Load(p + 4, high);
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = low[i], v[i + 4] = high[i];
}

// Every pointer, null among them, is a multiple of `bytes`.
template <typename... Pointers>
bool Aligned(uintptr_t bytes, const Pointers*... p) {
  return ((reinterpret_cast<uintptr_t>(p) % bytes == 0) && ...);
}

// i / size and i % size; 64-bit division only where it must be.
struct RowColumn {
  int64_t row;
  int64_t column;
};
__device__ inline RowColumn Divide(int64_t i, int64_t size) {
  if (((i | size) >> 32) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(i) / static_cast<uint32_t>(size);
    return {quotient, static_cast<uint32_t>(i) - quotient * static_cast<uint32_t>(size)};
  }
  return {i / size, i % size};
}

__device__ inline int64_t ThreadIndex() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
inline unsigned Blocks(int64_t size, int64_t per_block) {
  return static_cast<unsigned>((size + per_block - 1) / per_block);
}
inline cudaStream_t Stream(const Parallel& parallel) {
  return static_cast<cudaStream_t>(parallel.stream);
}

// e^x: as exact as the library for float, by the hardware's 2^x (2 ulp and more for large |x|)
// where the result is rounded to 16 bits.
template <typename T>
__device__ inline float Exp(float x) {
  if constexpr (std::same_as<T, float>) {
    return expf(x);
  } else {
    return __expf(x);
  }
}
template <typename T>
__device__ inline float Sigmoid(float x) {
  if constexpr (std::same_as<T, float>) {
    return 1.0f / (1.0f + expf(-x));
  } else {
    return __fdividef(1.0f, 1.0f + __expf(-x));
  }
}

}  // namespace mindforge::cuda
