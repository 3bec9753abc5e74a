// Causal grouped-query attention and its backward with bfloat16 products (VDPBF16PS): two
// neighbouring terms of each sum are multiplied at once, so every operand lies in pairs along the
// summed dimension. The backward works on transposed scores [keys, queries], which then are already
// the left operand of the keys' and values' gradients. See train_kernels.h and simd.h.
#pragma once

#include <immintrin.h>

#include "worker/kernels/attention_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

static_assert(W == 16, "VDPBF16PS on whole AVX-512 registers");

// A pair of bfloat16, the lower index in the low half.
using Pair = uint32_t;

// Pair (i, k..k+1) of A lies at a[i · row + k/2 · column].
struct PairLeft {
  const Pair* a;
  int64_t row;
  int64_t column;
};

template <int NV>
MF_INLINE void PairPanel(int64_t m, int64_t pairs, const PairLeft& left, const Pair* b, int64_t ldb,
                         bool accumulate, float* c, int64_t ldc) {
  for (int64_t i = 0; i < m; i += kRows) {
    __m512 sum[kRows][NV];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) {
        sum[r][j] = accumulate ? Load(c + (i + r) * ldc + j * W) : F{};
      }
    }
    const Pair* a = left.a + i * left.row;
    for (int64_t x = 0; x < pairs; ++x) {
      __m512i right[NV];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) right[j] = _mm512_loadu_si512(b + x * ldb + j * W);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512i scalar =
            _mm512_set1_epi32(static_cast<int32_t>(a[r * left.row + x * left.column]));
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) {
          sum[r][j] = _mm512_dpbf16_ps(sum[r][j], reinterpret_cast<__m512bh>(scalar),
                                       reinterpret_cast<__m512bh>(right[j]));
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) Store(c + (i + r) * ldc + j * W, sum[r][j]);
    }
  }
}

// c[m, n] (+)= A · B over 2 · pairs terms, B in pairs along its rows.
inline void PairProduct(int64_t m, int64_t n, int64_t pairs, const PairLeft& left, const Pair* b,
                        int64_t ldb, bool accumulate, float* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + 4 * W <= n; j += 4 * W) {
    PairPanel<4>(m, pairs, left, b + j, ldb, accumulate, c + j, ldc);
  }
  for (; j < n; j += W) PairPanel<1>(m, pairs, left, b + j, ldb, accumulate, c + j, ldc);
}

// Tile of rows begin … begin + 63 of x as [kTile, padded] bfloat16, zero outside.
inline void PackBf16Rows(const Bf16* x, int64_t stride, int64_t begin, int64_t length, int64_t d,
                         int64_t padded, Bf16* tile) {
  for (int64_t r = 0; r < kTile; ++r) {
    Bf16* out = tile + r * padded;
    int64_t filled = 0;
    if (begin + r < length) {
      __builtin_memcpy(out, x + (begin + r) * stride, d * sizeof(Bf16));
      filled = d;
    }
    __builtin_memset(static_cast<void*>(out + filled), 0, (padded - filled) * sizeof(Bf16));
  }
}

// A packed tile with its pairs along the columns, transposed: [padded / 2, kTile].
inline void PairColumns(const Bf16* tile, int64_t padded, Pair* out) {
  const auto* pairs = reinterpret_cast<const Pair*>(tile);
  const int64_t columns = padded / 2;
  const __m512i stride =
      _mm512_mullo_epi32((__m512i)Iota(), _mm512_set1_epi32(static_cast<int32_t>(columns)));
  for (int64_t x = 0; x < columns; ++x) {
    for (int64_t r = 0; r < kTile; r += W) {
      _mm512_storeu_si512(out + x * kTile + r,
                          _mm512_i32gather_epi32(stride, pairs + r * columns + x, 4));
    }
  }
}

// A packed tile in pairs along the rows: [kTile / 2, padded].
inline void PairRows(const Bf16* tile, int64_t padded, Pair* out) {
  for (int64_t r = 0; r < kTile; r += 2) {
    const auto* even = reinterpret_cast<const uint16_t*>(tile + r * padded);
    const uint16_t* odd = even + padded;
    for (int64_t i = 0; i < padded; i += W) {
      const __m512i low =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even + i)));
      const __m512i high =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd + i)));
      _mm512_storeu_si512(out + r / 2 * padded + i,
                          _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

MF_INLINE __m256i RoundPair(F v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)); }

// Dropout, rarely wanted, takes the float32 tiles.
inline int64_t PairAttentionWorkspace(const AttentionShape<Bf16>& s) {
  if (s.dropout != nullptr) return AttentionWorkspace(s);
  return s.batch * s.kv_heads * TileSizes(s).floats;
}

inline void PairAttentionTileRow(const AttentionShape<Bf16>& s, const TileSizes& z, int64_t batch,
                                 int64_t head, int64_t query_tile, const Bf16* q,
                                 const Pair* packed, Bf16* out, float* log2_sum) {
  alignas(64) Bf16 queries[kTile * kMaxFusedHeadDim];
  alignas(64) float result[kTile * kMaxFusedHeadDim];
  alignas(64) float scores[kTile * kTile];
  alignas(64) Bf16 probabilities[kTile * kTile];
  float maximum[kTile], sum[kTile];
  const Visibility visible(s, batch);
  const int64_t query_begin = query_tile * kTile;
  PackBf16Rows(q + s.Start(batch) * s.stride + head * s.head_dim, s.stride, query_begin,
               visible.length, s.head_dim, z.padded, queries);
  __builtin_memset(result, 0, kTile * z.padded * sizeof(float));
  for (int64_t r = 0; r < kTile; ++r) {
    maximum[r] = -__builtin_inff();
    sum[r] = 0;
  }
  const int64_t half = z.padded / 2;
  for (int64_t key_tile = visible.FirstTile(query_begin); key_tile <= query_tile; ++key_tile) {
    const Pair* keys = packed + key_tile * kTile * half;
    const Pair* values = keys + z.floats / 2;
    PairProduct(kTile, kTile, half, {reinterpret_cast<const Pair*>(queries), half, 1}, keys, kTile,
                false, scores, kTile);
    if (visible.Partial(query_tile, key_tile)) {
      MaskScores(visible, query_begin, key_tile * kTile, scores);
    }
    for (int64_t r = 0; r < kTile; ++r) {
      float* row = scores + r * kTile;
      SoftmaxRow(row, z.scale * kLog2E, maximum + r, sum + r, result + r * z.padded, z.padded);
      for (int64_t j = 0; j < kTile; j += W) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(probabilities + r * kTile + j),
                           RoundPair(Load(row + j)));
      }
    }
    PairProduct(kTile, z.padded, kTile / 2,
                {reinterpret_cast<const Pair*>(probabilities), kTile / 2, 1}, values, z.padded,
                true, result, z.padded);
  }
  StoreOutput(s, batch, head, query_begin, result, z.padded, maximum, sum, out, log2_sum);
}

inline void PairAttention(const Parallel& parallel, const AttentionShape<Bf16>& s, const Bf16* q,
                          const Bf16* k, const Bf16* v, Bf16* out, float* log2_sum,
                          float* workspace) {
  if (s.dropout != nullptr) return Attention(parallel, s, q, k, v, out, log2_sum, workspace);
  const TileSizes z(s);
  auto* packed = reinterpret_cast<Pair*>(workspace);  // per kv head: keys, then values
  parallel.For(s.batch * s.kv_heads, [&](int64_t task) {
    alignas(64) Bf16 rows[kTile * kMaxFusedHeadDim];
    const int64_t batch = task / s.kv_heads;
    const int64_t length = s.Length(batch);
    const int64_t at = s.Start(batch) * s.stride + task % s.kv_heads * s.head_dim;
    Pair* keys = packed + task * z.floats;
    Pair* values = keys + z.floats / 2;
    for (int64_t tile = 0; tile < Tiles(length); ++tile) {
      const int64_t offset = tile * kTile * z.padded / 2;
      PackBf16Rows(k + at, s.stride, tile * kTile, length, s.head_dim, z.padded, rows);
      PairColumns(rows, z.padded, keys + offset);
      PackBf16Rows(v + at, s.stride, tile * kTile, length, s.head_dim, z.padded, rows);
      PairRows(rows, z.padded, values + offset);
    }
  });
  parallel.For(s.batch * s.heads, [&](int64_t task) {
    const int64_t batch = task / s.heads;
    const int64_t head = task % s.heads;
    const int64_t group = batch * s.kv_heads + head / (s.heads / s.kv_heads);
    for (int64_t tile = 0; tile < Tiles(s.Length(batch)); ++tile) {
      PairAttentionTileRow(s, z, batch, head, tile, q, packed + group * z.floats, out, log2_sum);
    }
  });
}

// ---- backward ----

// One (batch, kv head)'s operands, each z.floats / 2 floats large unless said so.
struct PairBuffers {
  float *dk, *dv, *dq;                // z.floats each
  float *log2_sum, *delta;            // tiles · kTile each
  Bf16 *keys, *values;                // rows
  Pair* key_pairs;                    // along keys
  Pair *query_columns, *query_pairs;  // of one query head: along head_dim, along queries
  Pair *d_out_columns, *d_out_pairs;
  static int64_t Floats(const TileSizes& z) {
    return RoundUp(3 * z.floats + 2 * z.tiles * kTile + 7 * (z.floats / 2), 16);
  }
  PairBuffers(const TileSizes& z, float* p)
      : dk(p),
        dv(p + z.floats),
        dq(p + 2 * z.floats),
        log2_sum(p + 3 * z.floats),
        delta(log2_sum + z.tiles * kTile) {
    auto* rest = reinterpret_cast<Pair*>(delta + z.tiles * kTile);
    const int64_t half = z.floats / 2;
    keys = reinterpret_cast<Bf16*>(rest);
    values = reinterpret_cast<Bf16*>(rest + half);
    key_pairs = rest + 2 * half;
    query_columns = rest + 3 * half;
    query_pairs = rest + 4 * half;
    d_out_columns = rest + 5 * half;
    d_out_pairs = rest + 6 * half;
  }
};

inline int64_t PairBackwardWorkspace(const AttentionShape<Bf16>& s) {
  if (s.dropout != nullptr) return AttentionBackwardWorkspace(s);
  return s.batch * s.kv_heads * PairBuffers::Floats(TileSizes(s));
}

// Hides pairs of a transposed tile [keys, queries] of scores.
inline void MaskTransposed(const Visibility& visible, int64_t query_begin, int64_t key_begin,
                           float* scores) {
  for (int64_t i = 0; i < kTile; i += W) {
    const I query = Iota() + static_cast<int32_t>(query_begin + i);
    I first = I{};
    if (visible.first_key != nullptr) {
      for (int64_t lane = 0; lane < W; ++lane) first[lane] = visible.First(query_begin + i + lane);
    }
    for (int64_t r = 0; r < kTile; ++r) {
      const auto key = static_cast<int32_t>(key_begin + r);
      F s = Load(scores + r * kTile + i);
      s = ((query < key) | (first > key)) ? Set(-__builtin_inff()) : s;
      Store(scores + r * kTile + i, s);
    }
  }
}

inline void PairBackwardTile(const TileSizes& z, const Visibility& visible, const PairBuffers& b,
                             int64_t query_tile, int64_t key_tile) {
  alignas(64) float scores[kTile * kTile];  // [keys, queries]
  alignas(64) float ds[kTile * kTile];
  alignas(64) Bf16 p_rows[kTile * kTile];  // pairs along queries
  alignas(64) Bf16 ds_rows[kTile * kTile];
  alignas(64) Pair ds_pairs[kTile / 2 * kTile];  // pairs along keys: [keys / 2, queries]
  const int64_t half = z.padded / 2;
  const int64_t query_at = query_tile * kTile * half;
  const int64_t key_at = key_tile * kTile * half;
  PairProduct(kTile, kTile, half, {reinterpret_cast<const Pair*>(b.keys) + key_at, half, 1},
              b.query_columns + query_at, kTile, false, scores, kTile);
  PairProduct(kTile, kTile, half, {reinterpret_cast<const Pair*>(b.values) + key_at, half, 1},
              b.d_out_columns + query_at, kTile, false, ds, kTile);
  if (visible.Partial(query_tile, key_tile)) {
    MaskTransposed(visible, query_tile * kTile, key_tile * kTile, scores);
  }
  for (int64_t i = 0; i < kTile; i += W) {
    const F row_sum = Load(b.log2_sum + query_tile * kTile + i);
    const F delta = Load(b.delta + query_tile * kTile + i);
    for (int64_t r = 0; r < kTile; r += 2) {
      __m256i rounded[2];
      for (int64_t odd = 0; odd < 2; ++odd) {
        const int64_t at = (r + odd) * kTile + i;
        const F p = Exp2(Load(scores + at) * (z.scale * kLog2E) - row_sum);
        rounded[odd] = RoundPair(p * (Load(ds + at) - delta) * z.scale);
        _mm256_store_si256(reinterpret_cast<__m256i*>(p_rows + at), RoundPair(p));
        _mm256_store_si256(reinterpret_cast<__m256i*>(ds_rows + at), rounded[odd]);
      }
      _mm512_store_si512(ds_pairs + r / 2 * kTile + i,
                         _mm512_or_si512(_mm512_cvtepu16_epi32(rounded[0]),
                                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded[1]), 16)));
    }
  }
  PairProduct(kTile, z.padded, kTile / 2, {reinterpret_cast<const Pair*>(p_rows), kTile / 2, 1},
              b.d_out_pairs + query_at, z.padded, true, b.dv + 2 * key_at, z.padded);
  PairProduct(kTile, z.padded, kTile / 2, {reinterpret_cast<const Pair*>(ds_rows), kTile / 2, 1},
              b.query_pairs + query_at, z.padded, true, b.dk + 2 * key_at, z.padded);
  PairProduct(kTile, z.padded, kTile / 2, {ds_pairs, 1, kTile}, b.key_pairs + key_at, z.padded,
              true, b.dq + 2 * query_at, z.padded);
}

inline void PairAttentionBackward(const Parallel& parallel, const AttentionShape<Bf16>& s,
                                  const Bf16* q, const Bf16* k, const Bf16* v, const Bf16* out,
                                  const float* log2_sum, const Bf16* d_out, Bf16* dq, Bf16* dk,
                                  Bf16* dv, float* workspace) {
  if (s.dropout != nullptr) {
    return AttentionBackward(parallel, s, q, k, v, out, log2_sum, d_out, dq, dk, dv, workspace);
  }
  const TileSizes z(s);
  const int64_t group = s.heads / s.kv_heads;
  const int64_t floats = PairBuffers::Floats(z);
  parallel.For(s.batch * s.kv_heads, [&](int64_t task) {
    alignas(64) Bf16 rows[kTile * kMaxFusedHeadDim];
    const int64_t batch = task / s.kv_heads;
    const int64_t kv_head = task % s.kv_heads;
    const Visibility visible(s, batch);
    const PairBuffers b(z, workspace + task * floats);
    const int64_t length = s.Length(batch);
    const int64_t kv_at = s.Start(batch) * s.stride + kv_head * s.head_dim;
    for (int64_t tile = 0; tile < Tiles(length); ++tile) {
      const int64_t begin = tile * kTile;
      PackBf16Rows(k + kv_at, s.stride, begin, length, s.head_dim, z.padded,
                   b.keys + begin * z.padded);
      PairRows(b.keys + begin * z.padded, z.padded, b.key_pairs + begin * z.padded / 2);
      PackBf16Rows(v + kv_at, s.stride, begin, length, s.head_dim, z.padded,
                   b.values + begin * z.padded);
    }
    __builtin_memset(b.dk, 0, 2 * z.floats * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const int64_t q_at = s.Start(batch) * s.stride + head * s.head_dim;
      const int64_t out_at = s.Start(batch) * s.out_stride + head * s.head_dim;
      PrepareRows(s, z, batch, head, out, d_out, log2_sum, b.log2_sum, b.delta);
      __builtin_memset(b.dq, 0, z.floats * sizeof(float));
      for (int64_t tile = 0; tile < Tiles(length); ++tile) {
        const int64_t begin = tile * kTile;
        const int64_t at = begin * z.padded / 2;
        PackBf16Rows(q + q_at, s.stride, begin, length, s.head_dim, z.padded, rows);
        PairColumns(rows, z.padded, b.query_columns + at);
        PairRows(rows, z.padded, b.query_pairs + at);
        PackBf16Rows(d_out + out_at, s.out_stride, begin, length, s.head_dim, z.padded, rows);
        PairColumns(rows, z.padded, b.d_out_columns + at);
        PairRows(rows, z.padded, b.d_out_pairs + at);
      }
      for (int64_t query = 0; query < Tiles(length); ++query) {
        for (int64_t key = visible.FirstTile(query * kTile); key <= query; ++key) {
          PairBackwardTile(z, visible, b, query, key);
        }
      }
      StoreGradient(s, z, length, b.dq, dq + q_at);
    }
    StoreGradient(s, z, length, b.dk, dk + kv_at);
    StoreGradient(s, z, length, b.dv, dv + kv_at);
  });
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
