// Product of float32 matrices of any strides for one instruction set: both operands are packed into
// panels, blocks of a hold out in the second-level cache, a tile of c stays in registers. See
// train_kernels.h and simd.h.
#pragma once

#include "worker/kernels/attention_tile.h"

namespace mindforge {
namespace MINDFORGE_ISA {

constexpr int kPanelRows = MINDFORGE_SIMD_WIDTH == 16 ? 14 : 6;  // of c in registers
constexpr int kPanelVectors = 2;
constexpr int64_t kPanelColumns = kPanelVectors * W;
constexpr int64_t kDepth = 256;                  // terms summed in registers
constexpr int64_t kBlockRows = 10 * kPanelRows;  // of a task
constexpr int64_t kBlockColumns = 1024;

inline int64_t Blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

inline int64_t MatrixProductWorkspace(const ProductShape& s) {
  return RoundUp(s.n, kPanelColumns) * s.k + 16;
}

// Columns `column` … of rows `begin` … `end` of b, row after row.
inline void PackRight(const ProductShape& s, const float* b, int64_t column, int64_t begin,
                      int64_t end, float* out) {
  const int64_t count = Min(kPanelColumns, s.n - column);
  if (count < kPanelColumns) {
    __builtin_memset(out, 0, (end - begin) * kPanelColumns * sizeof(float));
  }
  if (s.b_column == 1) {
    for (int64_t x = begin; x < end; ++x, out += kPanelColumns) {
      const float* row = b + x * s.b_row + column;
      for (int64_t j = 0; j < count; j += W)
        StoreUpTo(out + j, LoadUpTo(row + j, count - j), count - j);
    }
    return;
  }
  for (int64_t j = 0; j < count; ++j) {
    const float* source = b + (column + j) * s.b_column + begin * s.b_row;
    for (int64_t x = 0; x < end - begin; ++x) out[x * kPanelColumns + j] = source[x * s.b_row];
  }
}

// kPanelRows rows of a from `row` on, terms `begin` … `end`, term after term.
inline void PackLeft(const ProductShape& s, const float* a, int64_t row, int64_t begin, int64_t end,
                     float* out) {
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const bool inside = row + r < s.m;
    const float* source = a + (row + r) * s.a_row + begin * s.a_column;
    for (int64_t x = 0; x < end - begin; ++x) {
      out[x * kPanelRows + r] = inside ? source[x * s.a_column] : 0.0f;
    }
  }
}

MF_INLINE void PanelProduct(int64_t depth, const float* a, const float* b, bool accumulate,
                            int64_t rows, int64_t columns, float* c, int64_t ldc) {
  F sum[kPanelRows][kPanelVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) sum[r][j] = F{};
  }
  for (int64_t x = 0; x < depth; ++x) {
    F right[kPanelVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) {
      right[j] = Load(b + j * W);
      __builtin_prefetch(b + j * W + 8 * kPanelColumns);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kPanelRows; ++r) {
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) sum[r][j] += a[r] * right[j];
    }
    a += kPanelRows;
    b += kPanelColumns;
  }
  if (rows >= kPanelRows && columns >= kPanelColumns) {
#pragma GCC unroll 16
    for (int r = 0; r < kPanelRows; ++r) {
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) {
        float* at = c + r * ldc + j * W;
        Store(at, accumulate ? Load(at) + sum[r][j] : sum[r][j]);
      }
    }
    return;
  }
  // Through memory, so that the sums above have fixed indices and stay in registers.
  float tile[kPanelRows * kPanelColumns];
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) {
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) Store(tile + r * kPanelColumns + j * W, sum[r][j]);
  }
  for (int64_t r = 0; r < Min(rows, kPanelRows); ++r) {
    for (int64_t j = 0; j < Min(columns, kPanelColumns); ++j) {
      const float value = tile[r * kPanelColumns + j];
      c[r * ldc + j] = accumulate ? c[r * ldc + j] + value : value;
    }
  }
}

// c's rows from `row` on, columns from `column` on, a task's share.
inline void ProductBlock(const ProductShape& s, const float* a, const float* packed, int64_t row,
                         int64_t column, float* c) {
  alignas(64) float left[kBlockRows * kDepth];
  const int64_t row_end = Min(s.m, row + kBlockRows);
  const int64_t column_end = Min(s.n, column + kBlockColumns);
  for (int64_t begin = 0; begin < s.k; begin += kDepth) {
    const int64_t end = Min(s.k, begin + kDepth);
    for (int64_t r = row; r < row_end; r += kPanelRows) {
      PackLeft(s, a, r, begin, end, left + (r - row) * (end - begin));
    }
    for (int64_t j = column; j < column_end; j += kPanelColumns) {
      const float* right = packed + j * s.k + begin * kPanelColumns;
      for (int64_t r = row; r < row_end; r += kPanelRows) {
        PanelProduct(end - begin, left + (r - row) * (end - begin), right,
                     s.accumulate || begin > 0, row_end - r, column_end - j, c + r * s.c_row + j,
                     s.c_row);
      }
    }
  }
}

inline void MatrixProduct(const Parallel& parallel, const ProductShape& s, const float* a,
                          const float* b, float* c, float* workspace) {
  // Panels begin on whole cache lines.
  float* packed = workspace + (16 - reinterpret_cast<uintptr_t>(workspace) / 4 % 16) % 16;
  parallel.For(Blocks(s.n, kPanelColumns), [&](int64_t panel) {
    PackRight(s, b, panel * kPanelColumns, 0, s.k, packed + panel * kPanelColumns * s.k);
  });
  const int64_t across = Blocks(s.n, kBlockColumns);
  parallel.For(Blocks(s.m, kBlockRows) * across, [&](int64_t task) {
    ProductBlock(s, a, packed, task / across * kBlockRows, task % across * kBlockColumns, c);
  });
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
