// Counter-based dropout for one instruction set; see train_kernels.h for what each kernel does and
// simd.h for how such a file is included. Every width draws the same masks: columns come in groups
// of 64, column 16 · j + lane of a group takes word j of the counter (position, row,
// 16 · group + lane, stream).
#pragma once

#include "worker/kernels/rows_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

constexpr int64_t kDropoutGroup = 64;
constexpr int64_t kDropoutLanes = 16;

// Products of the even 32-bit lanes, 64 bits each.
MF_INLINE U ProductsOfEven(U a, U b) {
#if MINDFORGE_SIMD_WIDTH == 16
  return reinterpret_cast<U>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif MINDFORGE_SIMD_WIDTH == 8
  return reinterpret_cast<U>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return reinterpret_cast<U>(
      _mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#endif
}

typedef uint64_t U64 __attribute__((vector_size(4 * MINDFORGE_SIMD_WIDTH)));

MF_INLINE void MultiplyWide(U a, uint32_t factor, U* high, U* low) {
  const U b = U{} + factor;
  const U64 even = reinterpret_cast<U64>(ProductsOfEven(a, b));
  const U64 odd =
      reinterpret_cast<U64>(ProductsOfEven(reinterpret_cast<U>(reinterpret_cast<U64>(a) >> 32), b));
  const U64 upper = U64{} + 0xffffffff00000000u;
  *high = reinterpret_cast<U>((even >> 32) | (odd & upper));
  *low = reinterpret_cast<U>((even & ~upper) | (odd << 32));
}

// Philox4x32-10 of philox.h on W counters.
MF_INLINE void PhiloxLanes(uint64_t key, U c[4]) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    U high_a, low_a, high_b, low_b;
    MultiplyWide(c[0], 0xD2511F53u, &high_a, &low_a);
    MultiplyWide(c[2], 0xCD9E8D57u, &high_b, &low_b);
    c[0] = high_b ^ c[1] ^ (U{} + k0);
    c[1] = low_b;
    c[2] = high_a ^ c[3] ^ (U{} + k1);
    c[3] = low_a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// What the 64 columns of a group are multiplied with.
MF_INLINE void DropoutGroup(const DropoutSite& site, int64_t index, int64_t row, int64_t position,
                            int64_t group, float* out) {
  for (int64_t lane = 0; lane < kDropoutLanes; lane += W) {
    U c[4] = {U{} + static_cast<uint32_t>(position), U{} + static_cast<uint32_t>(row),
              reinterpret_cast<U>(Iota()) + static_cast<uint32_t>(group * kDropoutLanes + lane),
              U{} + (site.stream + static_cast<uint32_t>(index))};
    PhiloxLanes(site.key, c);
    for (int64_t word = 0; word < 4; ++word) {
      Store(out + word * kDropoutLanes + lane, c[word] >= site.threshold ? Set(site.scale) : F{});
    }
  }
}

// y[i] = f(i, multiplier of i) over a row's columns, whole vectors at a time.
template <typename Function>
MF_INLINE void ForDropoutRow(const DropoutSite& site, int64_t index, int64_t row, int64_t position,
                             int64_t c, Function&& f) {
  alignas(64) float keep[kDropoutGroup];
  for (int64_t begin = 0; begin < c; begin += kDropoutGroup) {
    DropoutGroup(site, index, row, position, begin / kDropoutGroup, keep);
    for (int64_t i = 0; i < kDropoutGroup && begin + i < c; i += W) f(begin + i, Load(keep + i));
  }
}

template <typename T>
void Dropout(const Parallel& parallel, int64_t n, int64_t c, const TokenPlaces& places,
             const DropoutSite& site, int64_t index, const T* x, T* y) {
  ForRows(parallel, n, [&](int64_t token) {
    const T* in = x + token * c;
    T* out = y + token * c;
    ForDropoutRow(
        site, index, places.rows[token], places.positions[token], c,
        [&](int64_t i, F keep) { StoreUpTo(out + i, LoadUpTo(in + i, c - i) * keep, c - i); });
  });
}

inline void DropoutScores(const Parallel& parallel, int64_t batch, int64_t heads, int64_t length,
                          const DropoutSite& site, float* out) {
  ForRows(parallel, batch * heads * length, [&](int64_t query) {
    const int64_t head = query / length % heads;
    float* target = out + query * length;
    ForDropoutRow(site, head, query / length / heads, query % length, length,
                  [&](int64_t i, F keep) { StoreUpTo(target + i, keep, length - i); });
  });
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
