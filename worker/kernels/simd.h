// Vectors of floats for one instruction set, on the compiler's vector extension. Included once per
// per-ISA source file, which defines MINDFORGE_ISA (a namespace) and MINDFORGE_SIMD_WIDTH (floats
// in a vector). No standard headers here: an inline function compiled for AVX-512 must never be
// the copy that the linker keeps for everyone.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "worker/kernels/train_kernels.h"

#if !defined(MINDFORGE_ISA) || !defined(MINDFORGE_SIMD_WIDTH)
#error "define MINDFORGE_ISA and MINDFORGE_SIMD_WIDTH"
#endif

namespace mindforge {
namespace MINDFORGE_ISA {

constexpr int64_t W = MINDFORGE_SIMD_WIDTH;
typedef float F __attribute__((vector_size(4 * MINDFORGE_SIMD_WIDTH)));
typedef int32_t I __attribute__((vector_size(4 * MINDFORGE_SIMD_WIDTH)));
typedef uint32_t U __attribute__((vector_size(4 * MINDFORGE_SIMD_WIDTH)));
typedef uint16_t U16 __attribute__((vector_size(2 * MINDFORGE_SIMD_WIDTH)));
// The same without alignment, for loads and stores.
typedef float FM __attribute__((vector_size(4 * MINDFORGE_SIMD_WIDTH), aligned(4), may_alias));
typedef uint16_t U16M __attribute__((vector_size(2 * MINDFORGE_SIMD_WIDTH), aligned(2), may_alias));

#define MF_INLINE inline __attribute__((always_inline))

MF_INLINE F Set(float x) { return x - F{}; }
MF_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
MF_INLINE int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

MF_INLINE F Load(const float* p) { return *reinterpret_cast<const FM*>(p); }
MF_INLINE void Store(float* p, F v) { *reinterpret_cast<FM*>(p) = v; }

MF_INLINE F Widen(U16 v) { return reinterpret_cast<F>(__builtin_convertvector(v, U) << 16); }
MF_INLINE U RoundToBf16(F v) {  // in the low half; NaN stays NaN
  const U bits = reinterpret_cast<U>(v);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return v == v ? rounded : U{} + 0x7fc0u;
}
MF_INLINE F Load(const Bf16* p) { return Widen(*reinterpret_cast<const U16M*>(p)); }
MF_INLINE void Store(Bf16* p, F v) {
#ifdef MINDFORGE_SIMD_BF16
  const __m256bh rounded = _mm512_cvtneps_pbh(v);
  __builtin_memcpy(p, &rounded, sizeof(rounded));
#else
  *reinterpret_cast<U16M*>(p) = __builtin_convertvector(RoundToBf16(v), U16);
#endif
}

MF_INLINE float ToFloat(float x) { return x; }
MF_INLINE float ToFloat(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}

// The first `count` < W elements, the others 0.
template <typename T>
MF_INLINE F LoadPart(const T* p, int64_t count) {
  T buffer[W] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return Load(buffer);
}
template <typename T>
MF_INLINE void StorePart(T* p, F v, int64_t count) {
  T buffer[W];
  Store(buffer, v);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}
template <typename T>
MF_INLINE F LoadUpTo(const T* p, int64_t count) {
  return count >= W ? Load(p) : LoadPart(p, count);
}
template <typename T>
MF_INLINE void StoreUpTo(T* p, F v, int64_t count) {
  if (count >= W) {
    Store(p, v);
  } else {
    StorePart(p, v, count);
  }
}

// Sum and maximum of the lanes, by halves.
MF_INLINE float Sum(F v) {
  float lanes[W];
  Store(lanes, v);
  for (int64_t half = W / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
MF_INLINE float MaxOf(F v) {
  float lanes[W];
  Store(lanes, v);
  float out = lanes[0];
  for (int64_t i = 1; i < W; ++i) out = lanes[i] > out ? lanes[i] : out;
  return out;
}
MF_INLINE F MaxOf(F a, F b) { return a > b ? a : b; }

MF_INLINE I Iota() {
  I out;
  for (int i = 0; i < static_cast<int>(W); ++i) out[i] = i;
  return out;
}

// 2^x within 2 ulp; 0 below -126, clamped above 127.
MF_INLINE F Exp2(F x) {
  const F limited = x > 127.0f ? Set(127.0f) : (x < -126.0f ? Set(-126.0f) : x);
  const F magic = Set(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  const F shifted = limited + magic;
  const F f = limited - (shifted - magic);  // [-0.5, 0.5]
  F p = Set(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  const I exponent = reinterpret_cast<I>(shifted) << 23;
  const F out = reinterpret_cast<F>(reinterpret_cast<I>(p) + exponent);
  return x < -126.0f ? F{} : out;
}
// e^x: x · log2(e) in two parts, so that large x keep their precision.
MF_INLINE F Exp(F x) {
  const F limited = x > 88.0f ? Set(88.0f) : (x < -87.3f ? Set(-87.3f) : x);
  const F magic = Set(12582912.0f);
  const F shifted = limited * 1.44269504088896341f + magic;
  const F n = shifted - magic;
  F r = limited - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  F p = Set(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const F out = reinterpret_cast<F>(reinterpret_cast<I>(p) + (reinterpret_cast<I>(shifted) << 23));
  return x < -87.3f ? F{} : out;
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
