// V on AVX-512F/BW/VL/DQ. Included by the two AVX-512 files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mindforge {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;

inline __mmask16 FirstLanes(int64_t n) {
  if (n >= 16) return 0xffff;
  return n <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << n) - 1);
}

struct V {
  __m512 v;

  static V Zero() { return {_mm512_setzero_ps()}; }
  static V Set(float x) { return {_mm512_set1_ps(x)}; }
  static V Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static V LoadN(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(FirstLanes(n), p)}; }
  static V LoadBf16(const uint16_t* p) {
    const __m512i wide =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StoreN(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
  void StoreBf16(uint16_t* p) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  static V Fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static V Max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
  static V Min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
  friend V operator+(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend V operator-(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend V operator*(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend V operator/(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
  // Lanes 0 … n-1 of a, the others of b.
  static V KeepFirst(V a, int64_t n, V b) {
    return {_mm512_mask_blend_ps(FirstLanes(n), b.v, a.v)};
  }
  // a, but 0 where x < bound.
  static V ZeroBelow(V a, V x, V bound) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_LT_OQ), a.v,
                                 _mm512_setzero_ps())};
  }
  // p · 2^n, n being the integer in the low mantissa bits of `rounded`.
  static V ScaleByPower(V p, V rounded) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(rounded.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p.v), n))};
  }
  // Lanes are folded in halves: i and i + 8, then 4, 2, 1.
  float Sum() const {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  float Largest() const {
    const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  float First() const { return _mm512_cvtss_f32(v); }
};

}  // namespace
}  // namespace mindforge
