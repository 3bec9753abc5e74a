// Decoding kernels for AVX2 with FMA: a vector of 16 is two registers.
#include <immintrin.h>

#include <cstdint>

#include "worker/kernels/infer_kernels_tables.h"

namespace mindforge {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileVectors = 1;

inline __m256i LaneMask(int64_t n) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int bound = n > 8 ? 8 : static_cast<int>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(bound), lanes);
}

struct V {
  __m256 low;
  __m256 high;

  static V Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static V Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static V Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static V LoadN(const float* p, int64_t n) {
    return {_mm256_maskload_ps(p, LaneMask(n)), _mm256_maskload_ps(p + 8, LaneMask(n - 8))};
  }
  static V LoadBf16(const uint16_t* p) { return {Widen(p), Widen(p + 8)}; }
  void Store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  void StoreN(float* p, int64_t n) const {
    _mm256_maskstore_ps(p, LaneMask(n), low);
    _mm256_maskstore_ps(p + 8, LaneMask(n - 8), high);
  }
  void StoreBf16(uint16_t* p) const {
    const __m256i packed = _mm256_packus_epi32(Narrow(low), Narrow(high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm256_permute4x64_epi64(packed, 0b11011000));
  }
  static V Fma(V a, V b, V c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static V Max(V a, V b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static V Min(V a, V b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  friend V operator+(V a, V b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  friend V operator-(V a, V b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  friend V operator*(V a, V b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  friend V operator/(V a, V b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static V KeepFirst(V a, int64_t n, V b) {
    return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(LaneMask(n))),
            _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(LaneMask(n - 8)))};
  }
  static V ZeroBelow(V a, V x, V bound) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.low, bound.low, _CMP_LT_OQ), a.low),
            _mm256_andnot_ps(_mm256_cmp_ps(x.high, bound.high, _CMP_LT_OQ), a.high)};
  }
  static V ScaleByPower(V p, V rounded) {
    return {Scaled(p.low, rounded.low), Scaled(p.high, rounded.high)};
  }
  float Sum() const {
    const __m256 a = _mm256_add_ps(low, high);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  float Largest() const {
    const __m256 a = _mm256_max_ps(low, high);
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  float First() const { return _mm256_cvtss_f32(low); }

 private:
  static __m256 Widen(const uint16_t* p) {
    const __m256i wide =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static __m256i Narrow(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  }
  static __m256 Scaled(__m256 p, __m256 rounded) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
  }
};

struct Pairs {
  V even;
  V odd;

  static V Even(__m256i a, __m256i b) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
  }
  static V Odd(__m256i a, __m256i b) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(a, mask)),
            _mm256_castsi256_ps(_mm256_and_si256(b, mask))};
  }
  static Pairs Load(const uint16_t* p) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    return {Even(a, b), Odd(a, b)};
  }
  static Pairs Broadcast(const uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, 4);
    const __m256i a = _mm256_set1_epi32(pair);
    return {Even(a, a), Odd(a, a)};
  }
  static V Dot(V acc, Pairs a, Pairs b) {
    return V::Fma(a.odd, b.odd, V::Fma(a.even, b.even, acc));
  }
};

}  // namespace
}  // namespace mindforge

#include "worker/kernels/infer_kernels_table_impl.h"

namespace mindforge {

InferKernels Avx2InferKernels(InferDtype dtype) { return MakeTable(dtype, kNumericsBf16Fma); }

}  // namespace mindforge
