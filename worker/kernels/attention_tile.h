// Register-blocked products of small float tiles, and what both attention kernels of one
// instruction set share: masks, tile bounds, packing. See simd.h for how such a file is included.
#pragma once

#include "worker/kernels/simd.h"

namespace mindforge {
namespace MINDFORGE_ISA {

constexpr int64_t kTile = 64;  // queries and keys in a tile
constexpr int kRows = 4;       // rows of accumulators in registers
constexpr int kVectors = MINDFORGE_SIMD_WIDTH == 16 ? 4 : 2;

inline int64_t RoundUp(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

inline int64_t Tiles(int64_t length) { return (length + kTile - 1) / kTile; }

// Element (i, k) of A lies at a[i · row + k · column].
struct Left {
  const float* a;
  int64_t row;
  int64_t column;
};

template <int NV>
MF_INLINE void ProductPanel(int64_t m, int64_t k, const Left& left, const float* b, int64_t ldb,
                            bool accumulate, float* c, int64_t ldc) {
  for (int64_t i = 0; i < m; i += kRows) {
    F sum[kRows][NV];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) {
        sum[r][j] = accumulate ? Load(c + (i + r) * ldc + j * W) : F{};
      }
    }
    const float* a = left.a + i * left.row;
    for (int64_t x = 0; x < k; ++x) {
      F right[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) right[j] = Load(b + x * ldb + j * W);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const float scalar = a[r * left.row + x * left.column];
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) sum[r][j] += scalar * right[j];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) Store(c + (i + r) * ldc + j * W, sum[r][j]);
    }
  }
}

// c[m, n] (+)= A · b[k, n]. REQUIRES: m a multiple of kRows, n of W.
inline void Product(int64_t m, int64_t n, int64_t k, const Left& left, const float* b, int64_t ldb,
                    bool accumulate, float* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + kVectors * W <= n; j += kVectors * W) {
    ProductPanel<kVectors>(m, k, left, b + j, ldb, accumulate, c + j, ldc);
  }
  for (; j < n; j += W) ProductPanel<1>(m, k, left, b + j, ldb, accumulate, c + j, ldc);
}

// Rows `begin` … of x (row i at x + i · stride, `d` elements) as a [kTile, padded] tile; what lies
// outside is 0.
template <typename T>
void PackRows(const T* x, int64_t stride, int64_t begin, int64_t length, int64_t d, int64_t padded,
              float* tile) {
  for (int64_t r = 0; r < kTile; ++r) {
    float* out = tile + r * padded;
    if (begin + r >= length) {
      __builtin_memset(out, 0, padded * sizeof(float));
      continue;
    }
    const T* row = x + (begin + r) * stride;
    for (int64_t i = 0; i < padded; i += W) {
      Store(out + i, i + W <= d ? Load(row + i) : LoadPart(row + i, Max(0, d - i)));
    }
  }
}

// The transpose of a [kTile, padded] tile, as [d, kTile].
inline void TransposeTile(const float* tile, int64_t d, int64_t padded, float* out) {
  for (int64_t r = 0; r < kTile; ++r) {
    for (int64_t i = 0; i < d; ++i) out[i * kTile + r] = tile[r * padded + i];
  }
}

// Which keys a batch row's queries may see.
struct Visibility {
  const int32_t* first_key;  // null: 0
  const uint8_t* key_mask;   // null: all
  int64_t length;

  template <typename T>
  Visibility(const AttentionShape<T>& shape, int64_t batch)
      : first_key(shape.first_key == nullptr ? nullptr : shape.first_key + shape.Start(batch)),
        key_mask(shape.key_mask == nullptr ? nullptr : shape.key_mask + shape.Start(batch)),
        length(shape.Length(batch)) {}

  int32_t First(int64_t query) const {
    return first_key == nullptr ? 0 : first_key[Min(query, length - 1)];
  }
  // First tile of keys that queries from `query` on need.
  int64_t FirstTile(int64_t query) const { return First(query) / kTile; }
  // Some pair of the tile is hidden.
  bool Partial(int64_t query_tile, int64_t key_tile) const {
    return query_tile == key_tile || key_mask != nullptr ||
           First(query_tile * kTile + kTile - 1) > key_tile * kTile;
  }
};

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
