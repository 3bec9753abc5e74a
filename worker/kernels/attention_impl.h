// Causal grouped-query attention and its backward in float32 arithmetic over tiles of 64 x 64,
// skipping tiles above the diagonal and outside the document. See train_kernels.h and simd.h.
#pragma once

#include "worker/kernels/attention_tile.h"
#include "worker/kernels/dropout_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

constexpr float kLog2E = 1.44269504088896341f;
// A log2 of the denominator that makes every probability of a padding row 0.
constexpr float kHidden = 1e30f;

struct TileSizes {
  int64_t tiles;   // along the longest row
  int64_t padded;  // head_dim up to whole vectors
  int64_t floats;  // one [tiles · kTile, padded] operand
  float scale;

  template <typename T>
  explicit TileSizes(const AttentionShape<T>& s)
      : tiles(Tiles(s.length)),
        padded(RoundUp(s.head_dim, 16)),
        floats(tiles * kTile * padded),
        scale(1.0f / __builtin_sqrtf(static_cast<float>(s.head_dim))) {}
};

template <typename T>
int64_t AttentionWorkspace(const AttentionShape<T>& s) {
  return s.batch * s.kv_heads * 2 * TileSizes(s).floats;
}

// Hides pairs of a [queries, keys] tile of scores.
inline void MaskScores(const Visibility& visible, int64_t query_begin, int64_t key_begin,
                       float* scores) {
  for (int64_t r = 0; r < kTile; ++r) {
    const auto last = static_cast<int32_t>(query_begin + r);
    const int32_t first = visible.First(query_begin + r);
    for (int64_t j = 0; j < kTile; j += W) {
      const I key = Iota() + static_cast<int32_t>(key_begin + j);
      F s = Load(scores + r * kTile + j);
      s = ((key > last) | (key < first)) ? Set(-__builtin_inff()) : s;
      Store(scores + r * kTile + j, s);
    }
    if (visible.key_mask == nullptr) continue;
    for (int64_t j = 0; j < kTile && key_begin + j < visible.length; ++j) {
      if (visible.key_mask[key_begin + j] == 0) scores[r * kTile + j] = -__builtin_inff();
    }
  }
}

// Which probabilities of a tile are dropped; `site` null: none.
struct TileDropout {
  const DropoutSite* site;
  int64_t head;
  int64_t batch;

  // Multiplies row `r` of `tile` [queries, keys].
  MF_INLINE void Apply(int64_t query, int64_t key_tile, float* row) const {
    static_assert(kTile == kDropoutGroup, "a tile's row is one group of columns");
    alignas(64) float keep[kTile];
    DropoutGroup(*site, head, batch, query, key_tile, keep);
    for (int64_t j = 0; j < kTile; j += W) Store(row + j, Load(row + j) * Load(keep + j));
  }
};

// Running softmax of one row: scores become probabilities relative to the maximum so far, the
// row's output is rescaled.
MF_INLINE void SoftmaxRow(float* scores, float factor, float* maximum, float* sum, float* out,
                          int64_t padded) {
  F top = Load(scores) * factor;
  for (int64_t j = W; j < kTile; j += W) top = MaxOf(top, Load(scores + j) * factor);
  const float tile_max = MaxOf(top);
  const float new_max = tile_max > *maximum ? tile_max : *maximum;
  if (new_max == -__builtin_inff()) {
    __builtin_memset(scores, 0, kTile * sizeof(float));
    return;
  }
  F total = F{};
  for (int64_t j = 0; j < kTile; j += W) {
    const F p = Exp2(Load(scores + j) * factor - new_max);
    Store(scores + j, p);
    total += p;
  }
  const float shrink = Exp2(Set(*maximum - new_max))[0];
  *sum = *sum * shrink + Sum(total);
  *maximum = new_max;
  if (shrink == 1.0f) return;
  for (int64_t i = 0; i < padded; i += W) Store(out + i, Load(out + i) * shrink);
}

template <typename T>
void StoreOutput(const AttentionShape<T>& s, int64_t batch, int64_t head, int64_t query_begin,
                 const float* out_tile, int64_t padded, const float* maximum, const float* sum,
                 T* out, float* log2_sum) {
  const int64_t rows = Min(kTile, s.Length(batch) - query_begin);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = s.Start(batch) + query_begin + r;
    T* target = out + token * s.out_stride + head * s.head_dim;
    const float inverse = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
    for (int64_t i = 0; i < s.head_dim; i += W) {
      StoreUpTo(target + i, Load(out_tile + r * padded + i) * inverse, s.head_dim - i);
    }
    log2_sum[head * s.Tokens() + token] =
        sum[r] > 0 ? maximum[r] + __builtin_log2f(sum[r]) : kHidden;
  }
}

template <typename T>
void AttentionTileRow(const AttentionShape<T>& s, const TileSizes& z, int64_t batch, int64_t head,
                      int64_t query_tile, const T* q, const float* packed, T* out,
                      float* log2_sum) {
  alignas(64) float queries[kTile * kMaxFusedHeadDim];
  alignas(64) float result[kTile * kMaxFusedHeadDim];
  alignas(64) float scores[kTile * kTile];
  float maximum[kTile], sum[kTile];
  const Visibility visible(s, batch);
  const TileDropout dropout{s.dropout, head, batch};
  const int64_t query_begin = query_tile * kTile;
  PackRows(q + s.Start(batch) * s.stride + head * s.head_dim, s.stride, query_begin, visible.length,
           s.head_dim, z.padded, queries);
  __builtin_memset(result, 0, kTile * z.padded * sizeof(float));
  for (int64_t r = 0; r < kTile; ++r) {
    maximum[r] = -__builtin_inff();
    sum[r] = 0;
  }
  for (int64_t key_tile = visible.FirstTile(query_begin); key_tile <= query_tile; ++key_tile) {
    const float* keys = packed + key_tile * kTile * z.padded;
    const float* values = keys + z.floats;
    Product(kTile, kTile, s.head_dim, {queries, z.padded, 1}, keys, kTile, false, scores, kTile);
    if (visible.Partial(query_tile, key_tile)) {
      MaskScores(visible, query_begin, key_tile * kTile, scores);
    }
    for (int64_t r = 0; r < kTile; ++r) {
      SoftmaxRow(scores + r * kTile, z.scale * kLog2E, maximum + r, sum + r, result + r * z.padded,
                 z.padded);
      if (s.dropout != nullptr) {
        dropout.Apply(query_begin + r, key_tile, scores + r * kTile);
      }
    }
    Product(kTile, z.padded, kTile, {scores, kTile, 1}, values, z.padded, true, result, z.padded);
  }
  StoreOutput(s, batch, head, query_begin, result, z.padded, maximum, sum, out, log2_sum);
}

template <typename T>
void Attention(const Parallel& parallel, const AttentionShape<T>& s, const T* q, const T* k,
               const T* v, T* out, float* log2_sum, float* workspace) {
  const TileSizes z(s);
  parallel.For(s.batch * s.kv_heads, [&](int64_t task) {
    alignas(64) float rows[kTile * kMaxFusedHeadDim];
    const int64_t batch = task / s.kv_heads;
    const int64_t length = s.Length(batch);
    const int64_t at = s.Start(batch) * s.stride + task % s.kv_heads * s.head_dim;
    float* keys = workspace + task * 2 * z.floats;  // transposed tiles, then values
    for (int64_t tile = 0; tile < Tiles(length); ++tile) {
      const int64_t offset = tile * kTile * z.padded;
      PackRows(k + at, s.stride, tile * kTile, length, s.head_dim, z.padded, rows);
      TransposeTile(rows, s.head_dim, z.padded, keys + offset);
      PackRows(v + at, s.stride, tile * kTile, length, s.head_dim, z.padded,
               keys + z.floats + offset);
    }
  });
  parallel.For(s.batch * s.heads, [&](int64_t task) {
    const int64_t batch = task / s.heads;
    const int64_t head = task % s.heads;
    const int64_t group = batch * s.kv_heads + head / (s.heads / s.kv_heads);
    for (int64_t tile = 0; tile < Tiles(s.Length(batch)); ++tile) {
      AttentionTileRow(s, z, batch, head, tile, q, workspace + group * 2 * z.floats, out, log2_sum);
    }
  });
}

// ---- backward ----

// One (batch, kv head)'s operands. Tiles of [kTile, padded] unless transposed ([head_dim, kTile]).
struct BackwardBuffers {
  float *keys, *keys_transposed, *values_transposed, *dk, *dv;  // of the kv head
  float *queries, *d_out, *dq, *log2_sum, *delta;               // of one query head
  static int64_t Floats(const TileSizes& z) { return 8 * z.floats + 2 * z.tiles * kTile; }
  BackwardBuffers(const TileSizes& z, float* p)
      : keys(p),
        keys_transposed(p + z.floats),
        values_transposed(p + 2 * z.floats),
        dk(p + 3 * z.floats),
        dv(p + 4 * z.floats),
        queries(p + 5 * z.floats),
        d_out(p + 6 * z.floats),
        dq(p + 7 * z.floats),
        log2_sum(p + 8 * z.floats),
        delta(log2_sum + z.tiles * kTile) {}
};

template <typename T>
int64_t AttentionBackwardWorkspace(const AttentionShape<T>& s) {
  return s.batch * s.kv_heads * RoundUp(BackwardBuffers::Floats(TileSizes(s)), 16);
}

// Row sums of out · d_out, and the padded softmax denominators.
template <typename T>
void PrepareRows(const AttentionShape<T>& s, const TileSizes& z, int64_t batch, int64_t head,
                 const T* out, const T* d_out, const float* log2_sum, float* row_sum,
                 float* delta) {
  for (int64_t i = 0; i < z.tiles * kTile; ++i) {
    row_sum[i] = kHidden;
    delta[i] = 0;
    if (i >= s.Length(batch)) continue;
    row_sum[i] = log2_sum[head * s.Tokens() + s.Start(batch) + i];
    const int64_t at = (s.Start(batch) + i) * s.out_stride + head * s.head_dim;
    F sum = F{};
    for (int64_t j = 0; j < s.head_dim; j += W) {
      sum += LoadUpTo(out + at + j, s.head_dim - j) * LoadUpTo(d_out + at + j, s.head_dim - j);
    }
    delta[i] = Sum(sum);
  }
}

template <typename T>
void StoreGradient(const AttentionShape<T>& s, const TileSizes& z, int64_t length,
                   const float* tiles, T* out) {
  for (int64_t row = 0; row < length; ++row) {
    for (int64_t i = 0; i < s.head_dim; i += W) {
      StoreUpTo(out + row * s.stride + i, Load(tiles + row * z.padded + i), s.head_dim - i);
    }
  }
}

inline void BackwardTile(int64_t head_dim, const TileSizes& z, const Visibility& visible,
                         const TileDropout& dropout, const BackwardBuffers& b, int64_t query_tile,
                         int64_t key_tile) {
  alignas(64) float p[kTile * kTile];
  alignas(64) float ds[kTile * kTile];
  const int64_t query_at = query_tile * kTile * z.padded;
  const int64_t key_at = key_tile * kTile * z.padded;
  Product(kTile, kTile, head_dim, {b.queries + query_at, z.padded, 1}, b.keys_transposed + key_at,
          kTile, false, p, kTile);
  Product(kTile, kTile, head_dim, {b.d_out + query_at, z.padded, 1}, b.values_transposed + key_at,
          kTile, false, ds, kTile);
  if (visible.Partial(query_tile, key_tile)) {
    MaskScores(visible, query_tile * kTile, key_tile * kTile, p);
  }
  for (int64_t r = 0; r < kTile; ++r) {
    if (dropout.site != nullptr) dropout.Apply(query_tile * kTile + r, key_tile, ds + r * kTile);
    const float row_sum = b.log2_sum[query_tile * kTile + r];
    const float delta = b.delta[query_tile * kTile + r];
    for (int64_t j = r * kTile; j < (r + 1) * kTile; j += W) {
      const F probability = Exp2(Load(p + j) * (z.scale * kLog2E) - row_sum);
      Store(p + j, probability);
      Store(ds + j, probability * (Load(ds + j) - delta) * z.scale);
    }
    if (dropout.site != nullptr) dropout.Apply(query_tile * kTile + r, key_tile, p + r * kTile);
  }
  Product(kTile, z.padded, kTile, {p, 1, kTile}, b.d_out + query_at, z.padded, true, b.dv + key_at,
          z.padded);
  Product(kTile, z.padded, kTile, {ds, 1, kTile}, b.queries + query_at, z.padded, true,
          b.dk + key_at, z.padded);
  Product(kTile, z.padded, kTile, {ds, kTile, 1}, b.keys + key_at, z.padded, true, b.dq + query_at,
          z.padded);
}

template <typename T>
void AttentionBackward(const Parallel& parallel, const AttentionShape<T>& s, const T* q, const T* k,
                       const T* v, const T* out, const float* log2_sum, const T* d_out, T* dq,
                       T* dk, T* dv, float* workspace) {
  const TileSizes z(s);
  const int64_t group = s.heads / s.kv_heads;
  const int64_t floats = RoundUp(BackwardBuffers::Floats(z), 16);
  parallel.For(s.batch * s.kv_heads, [&](int64_t task) {
    const int64_t batch = task / s.kv_heads;
    const int64_t kv_head = task % s.kv_heads;
    const Visibility visible(s, batch);
    const BackwardBuffers b(z, workspace + task * floats);
    const int64_t length = s.Length(batch);
    const int64_t kv_at = s.Start(batch) * s.stride + kv_head * s.head_dim;
    for (int64_t tile = 0; tile < Tiles(length); ++tile) {
      const int64_t at = tile * kTile * z.padded;
      // dq serves as scratch until the heads' loop clears it.
      PackRows(v + kv_at, s.stride, tile * kTile, length, s.head_dim, z.padded, b.dq);
      TransposeTile(b.dq, s.head_dim, z.padded, b.values_transposed + at);
      PackRows(k + kv_at, s.stride, tile * kTile, length, s.head_dim, z.padded, b.keys + at);
      TransposeTile(b.keys + at, s.head_dim, z.padded, b.keys_transposed + at);
    }
    __builtin_memset(b.dk, 0, 2 * z.floats * sizeof(float));
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const int64_t q_at = s.Start(batch) * s.stride + head * s.head_dim;
      const int64_t out_at = s.Start(batch) * s.out_stride + head * s.head_dim;
      PrepareRows(s, z, batch, head, out, d_out, log2_sum, b.log2_sum, b.delta);
      __builtin_memset(b.dq, 0, z.floats * sizeof(float));
      for (int64_t tile = 0; tile < Tiles(length); ++tile) {
        const int64_t at = tile * kTile * z.padded;
        PackRows(q + q_at, s.stride, tile * kTile, length, s.head_dim, z.padded, b.queries + at);
        PackRows(d_out + out_at, s.out_stride, tile * kTile, length, s.head_dim, z.padded,
                 b.d_out + at);
      }
      for (int64_t query = 0; query < Tiles(length); ++query) {
        for (int64_t key = visible.FirstTile(query * kTile); key <= query; ++key) {
          BackwardTile(s.head_dim, z, visible, {s.dropout, head, batch}, b, query, key);
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
