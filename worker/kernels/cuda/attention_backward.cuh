// Attention on tensor cores, backward: one kernel for dq, one for dk and dv, each writing what its
// CTA owns, so that nothing is added across CTAs. Seven products in place of the least five buy
// that no float gradient goes through memory and every sum has one order.
#pragma once

#include "worker/kernels/cuda/attention_tile.cuh"

namespace mindforge::cuda {

template <int kDim>
struct QueryGradientTile {
  static constexpr int kMt = kDim <= 64 ? 2 : 1;  // 16-row blocks of queries of a warp
  static constexpr int kN = 4;                    // 8-key blocks at a time
  static constexpr int kKeys = kDim <= 96 ? 64 : 32;
  static constexpr bool kHold = kMt * kDim <= 128;
  static constexpr int kMinBlocks = 2;
  static constexpr int kRows = 16 * kMt;
  // queries, gradients of their outputs, two stages of keys and values
  static constexpr int kBytes = TileBytes<kDim>(2 * kWarps * kRows + 4 * kKeys);
};

// dq, and delta [heads, tokens]: the row sums of out · d_out.
template <typename T, int kDim, bool kDrop>
__global__ void __launch_bounds__(kThreads, QueryGradientTile<kDim>::kMinBlocks)
    QueryGradientKernel(const Attention s, const int chunks, const T* __restrict__ q,
                        const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ out,
                        const float* __restrict__ log2_sum, const T* __restrict__ d_out,
                        T* __restrict__ dq, float* __restrict__ delta) {
  using Tile = QueryGradientTile<kDim>;
  constexpr int kMt = Tile::kMt, kN = Tile::kN, kKeys = Tile::kKeys, kRows = Tile::kRows;
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const QueryPlace<kRows> at(s, chunks, warp);
  if (at.empty) return;
  const int length = at.tokens.length;

  T* const query_tile = reinterpret_cast<T*>(shared) + warp * kRows * kTileStride<kDim>;
  const uint32_t d_out_tile = SharedAddress(query_tile) + TileBytes<kDim>(kWarps * kRows);
  const uint32_t keys = SharedAddress(shared) + TileBytes<kDim>(2 * kWarps * kRows);
  const int64_t kv_at = at.tokens.start * s.stride + at.kv_head * kDim;
  const int64_t q_at = at.tokens.start * s.stride + at.head * kDim;
  const int64_t out_at = at.tokens.start * s.out_stride + at.head * kDim;
  const auto copy = [&](int key, int stage) {
    const uint32_t tile = keys + stage * TileBytes<kDim>(2 * kKeys);
    CopyTile<kDim, kKeys, kThreads>(tile, k + kv_at, s.stride, key, length, threadIdx.x);
    CopyTile<kDim, kKeys, kThreads>(tile + TileBytes<kDim>(kKeys), v + kv_at, s.stride, key, length,
                                    threadIdx.x);
  };
  CopyTile<kDim, kRows, 32>(SharedAddress(query_tile), q + q_at, s.stride, at.begin, length, lane);
  CopyTile<kDim, kRows, 32>(d_out_tile, d_out + out_at, s.out_stride, at.begin, length, lane);
  CommitCopies();
  int tile_begin = at.key_begin / kKeys * kKeys;
  copy(tile_begin, 0);
  CommitCopies();

  Left<kDim, kMt, Tile::kHold> queries(SharedAddress(query_tile), lane), d_outs(d_out_tile, lane);
  WaitForCopies<1>();
  __syncwarp();
  queries.Hold();
  d_outs.Hold();
  float row_sum[kMt][2], row_delta[kMt][2];
  int first[kMt][2];
#pragma unroll
  for (int m = 0; m < kMt; ++m) {
    row_delta[m][0] = row_delta[m][1] = 0;
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      uint32_t read[kMt][4];
      if constexpr (!Tile::kHold) d_outs.Read(step, read);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = at.begin + m * 16 + e % 2 * 8 + lane / 4;
        if (query >= length) continue;
        const uint32_t o = *reinterpret_cast<const uint32_t*>(out + out_at + query * s.out_stride +
                                                              step * 16 + e / 2 * 8 + lane % 4 * 2);
        const float2 x = Unpack(o, T{});
        float2 y;
        if constexpr (Tile::kHold)
          y = Unpack(d_outs.held[step][m][e], T{});
        else
          y = Unpack(read[m][e], T{});
        row_delta[m][e % 2] += x.x * y.x + x.y * y.y;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& sum = row_delta[m][half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const int query = at.begin + m * 16 + half * 8 + lane / 4;
      const int64_t place = at.head * s.tokens + at.tokens.start + query;
      row_sum[m][half] = query < length ? log2_sum[place] : kHidden;
      first[m][half] =
          s.first_key != nullptr && query < length ? s.first_key[at.tokens.start + query] : 0;
      if (lane % 4 == 0 && query < length) delta[place] = sum;
    }
  }
  float result[kMt][kDim / 8][4] = {};
  const float factor = s.scale * kLog2E;
  const int own_end = at.begin < length ? min(at.begin + kRows, length) : 0;

  int stage = 0;
  for (; tile_begin < at.key_end; tile_begin += kKeys, stage ^= 1) {
    WaitForCopies<0>();
    __syncthreads();
    if (tile_begin + kKeys < at.key_end) copy(tile_begin + kKeys, stage ^ 1);
    CommitCopies();
    const uint32_t key_tile = keys + stage * TileBytes<kDim>(2 * kKeys);
#pragma unroll 1
    for (int part = 0; part < kKeys; part += 8 * kN) {
      const int begin = tile_begin + part;
      if (begin >= own_end || begin + 8 * kN <= at.first) continue;
      const uint32_t part_tile = key_tile + TileBytes<kDim>(part);
      float p[kMt][kN][4];
      MultiplyTransposed<T>(queries, part_tile + 2 * LaneOfB(lane, kTileStride<kDim>), p);
      if (begin + 8 * kN - 1 > at.begin || begin < at.last_first) {
#pragma unroll
        for (int m = 0; m < kMt; ++m) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int key = begin + n * 8 + lane % 4 * 2 + e % 2;
              const int query = at.begin + m * 16 + e / 2 * 8 + lane / 4;
              if (key > query || key < first[m][e / 2]) p[m][n][e] = -INFINITY;
            }
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kMt; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            p[m][n][e] = Exp2(fmaf(p[m][n][e], factor, -row_sum[m][e / 2]));
          }
        }
      }
      float ds[kMt][kN][4];
      MultiplyTransposed<T>(
          d_outs, part_tile + TileBytes<kDim>(kKeys) + 2 * LaneOfB(lane, kTileStride<kDim>), ds);
      if constexpr (kDrop) {
#pragma unroll
        for (int m = 0; m < kMt; ++m) {
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const int half = j / 4, e = 2 * half + j % 2;
            const float4 kept = DropoutMultipliers(s.dropout, at.head, at.row,
                                                   at.begin + m * 16 + half * 8 + lane / 4,
                                                   begin + j / 2 % 2 * 8 + lane % 4 * 2 + j % 2);
#pragma unroll
            for (int n = j / 2 % 2; n < kN; n += 2) {
              ds[m][n][e] *= Component(kept, begin % 64 / 16 + n / 2);
            }
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kMt; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - row_delta[m][e / 2]);
        }
      }
      uint32_t left[kN / 2][kMt][4];
      PackLeft<T>(ds, left);
      AddProduct<T, kDim>(left, part_tile + 2 * LaneOfA(lane, kTileStride<kDim>), result);
    }
  }
  if (at.begin >= length) return;
  float scale[kMt][2];
#pragma unroll
  for (int m = 0; m < kMt; ++m) scale[m][0] = scale[m][1] = s.scale;
  StoreRows<T, kDim>(result, scale, query_tile, lane, dq + q_at, s.stride, at.begin, length);
}

template <int kDim>
struct KeyGradientTile {
  static constexpr int kMt = kDim <= 64 ? 2 : 1;         // 16-row blocks of keys of a warp
  static constexpr int kN = 4;                           // 8-query blocks at a time
  static constexpr int kQueries = kDim <= 96 ? 64 : 32;  // of a tile
  static constexpr bool kHold = kMt * kDim <= 96;
  static constexpr int kMinBlocks = 2;
  static constexpr int kRows = 16 * kMt;
  static constexpr int kStageBytes = TileBytes<kDim>(2 * kQueries) + 3 * 4 * kQueries;
  // keys and values, two stages of queries, d_out, log2_sum, delta and first keys
  static constexpr int kBytes = TileBytes<kDim>(2 * kWarps * kRows) + 2 * kStageBytes;

  static __host__ int Chunks(const Attention& s) {
    return (s.length + kWarps * kRows - 1) / (kWarps * kRows);
  }
  static __host__ unsigned Grid(const Attention& s) { return Chunks(s) * s.batch * s.kv_heads; }
};

// dk and dv: a CTA owns kWarps · kRows keys of one head of keys and walks over the queries of its
// heads. Scores stand transposed, [keys, queries], so that they become left operands in place.
template <typename T, int kDim, bool kDrop>
__global__ void __launch_bounds__(kThreads, KeyGradientTile<kDim>::kMinBlocks)
    KeyGradientKernel(const Attention s, const int chunks, const T* __restrict__ q,
                      const T* __restrict__ k, const T* __restrict__ v,
                      const float* __restrict__ log2_sum, const T* __restrict__ d_out,
                      const float* __restrict__ delta, T* __restrict__ dk, T* __restrict__ dv) {
  using Tile = KeyGradientTile<kDim>;
  constexpr int kMt = Tile::kMt, kN = Tile::kN, kQueries = Tile::kQueries, kRows = Tile::kRows;
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const CtaPlace place(chunks, s.batch * s.kv_heads);
  const int kv_head = place.pair % s.kv_heads, row = place.pair / s.kv_heads;
  const int cta_begin = place.chunk * kWarps * kRows;
  const int own_begin = cta_begin + warp * kRows;
  const Row tokens = s.At(row);
  const int length = tokens.length;
  if (cta_begin >= length) return;
  int query_end = length;
  if (s.first_key != nullptr) {
    // first_key does not decrease: the queries that see one of these keys are the ones before the
    // first that sees none.
    query_end = 0;
    for (int i = 0; i < length; i += kThreads) {
      const int query = i + static_cast<int>(threadIdx.x);
      query_end += __syncthreads_count(query < length && s.first_key[tokens.start + query] <
                                                             cta_begin + kWarps * kRows);
    }
  }

  T* const key_tile = reinterpret_cast<T*>(shared) + warp * kRows * kTileStride<kDim>;
  T* const value_tile = key_tile + kWarps * kRows * kTileStride<kDim>;
  unsigned char* const stages = shared + TileBytes<kDim>(2 * kWarps * kRows);
  const int64_t kv_at = tokens.start * s.stride + kv_head * kDim;
  const int group = s.Group();
  const int tiles = (query_end - cta_begin + kQueries - 1) / kQueries;  // of one head
  const auto copy = [&](int head, int query, int stage) {
    unsigned char* const to = stages + stage * Tile::kStageBytes;
    const uint32_t tile = SharedAddress(to);
    CopyTile<kDim, kQueries, kThreads>(tile, q + tokens.start * s.stride + head * kDim, s.stride,
                                       query, length, threadIdx.x);
    CopyTile<kDim, kQueries, kThreads>(tile + TileBytes<kDim>(kQueries),
                                       d_out + tokens.start * s.out_stride + head * kDim,
                                       s.out_stride, query, length, threadIdx.x);
    const int i = threadIdx.x % kQueries;
    const bool valid = query + i < length;
    const int64_t place = tokens.start + query + i;
    float* const sums = reinterpret_cast<float*>(to + TileBytes<kDim>(2 * kQueries));
    if (threadIdx.x < kQueries) {
      if (valid)
        CopyWord(SharedAddress(sums + i), log2_sum + head * s.tokens + place);
      else
        sums[i] = kHidden;
    } else if (threadIdx.x < 2 * kQueries) {
      if (valid)
        CopyWord(SharedAddress(sums + kQueries + i), delta + head * s.tokens + place);
      else
        sums[kQueries + i] = 0;
      if (s.first_key != nullptr) {
        if (valid)
          CopyWord(SharedAddress(sums + 2 * kQueries + i), s.first_key + place);
        else
          sums[2 * kQueries + i] = 0;
      }
    }
  };
  CopyTile<kDim, kRows, 32>(SharedAddress(key_tile), k + kv_at, s.stride, own_begin, length, lane);
  CopyTile<kDim, kRows, 32>(SharedAddress(value_tile), v + kv_at, s.stride, own_begin, length,
                            lane);
  CommitCopies();
  int head = kv_head * group, tile = 0;
  copy(head, cta_begin, 0);
  CommitCopies();

  Left<kDim, kMt, Tile::kHold> keys(SharedAddress(key_tile), lane),
      values(SharedAddress(value_tile), lane);
  WaitForCopies<1>();
  __syncwarp();
  keys.Hold();
  values.Hold();
  float dk_sum[kMt][kDim / 8][4] = {}, dv_sum[kMt][kDim / 8][4] = {};
  const float factor = s.scale * kLog2E;

  for (int i = 0; i < tiles * group; ++i) {
    const int tile_head = head, tile_begin = cta_begin + tile * kQueries;
    if (++tile == tiles) {
      tile = 0;
      ++head;
    }
    WaitForCopies<0>();
    __syncthreads();
    if (i + 1 < tiles * group) copy(head, cta_begin + tile * kQueries, (i + 1) % 2);
    CommitCopies();
    const unsigned char* const stage = stages + i % 2 * Tile::kStageBytes;
    const float* const sums = reinterpret_cast<const float*>(stage + TileBytes<kDim>(2 * kQueries));
#pragma unroll 1
    for (int part = 0; part < kQueries; part += 8 * kN) {
      const int begin = tile_begin + part;
      if (begin + 8 * kN <= own_begin || begin >= query_end || own_begin >= length) continue;
      const uint32_t query_tile = SharedAddress(stage) + TileBytes<kDim>(part);
      const uint32_t d_out_tile = query_tile + TileBytes<kDim>(kQueries);
      const float* const part_sums = sums + part + lane % 4 * 2;
      float p[kMt][kN][4];
      MultiplyTransposed<T>(keys, query_tile + 2 * LaneOfB(lane, kTileStride<kDim>), p);
      if (begin < own_begin + kRows - 1 || s.first_key != nullptr) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int column = part + n * 8 + lane % 4 * 2 + e % 2;
            const int first = s.first_key == nullptr
                                  ? 0
                                  : reinterpret_cast<const int*>(sums + 2 * kQueries)[column];
#pragma unroll
            for (int m = 0; m < kMt; ++m) {
              const int key = own_begin + m * 16 + e / 2 * 8 + lane / 4;
              if (key > tile_begin + column || key < first) p[m][n][e] = -INFINITY;
            }
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float2 sum = *reinterpret_cast<const float2*>(part_sums + n * 8);
#pragma unroll
        for (int m = 0; m < kMt; ++m) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            p[m][n][e] = Exp2(fmaf(p[m][n][e], factor, -(e % 2 == 0 ? sum.x : sum.y)));
          }
        }
      }
      float ds[kMt][kN][4];
      MultiplyTransposed<T>(values, d_out_tile + 2 * LaneOfB(lane, kTileStride<kDim>), ds);
      if constexpr (!kDrop) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const float2 sum = *reinterpret_cast<const float2*>(part_sums + kQueries + n * 8);
#pragma unroll
          for (int m = 0; m < kMt; ++m) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (e % 2 == 0 ? sum.x : sum.y));
            }
          }
        }
      } else {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const float2 sum = *reinterpret_cast<const float2*>(part_sums + kQueries + n * 8);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            // A warp's keys lie in one half of a group of 64: its blocks of 16 share counters.
            const float4 kept =
                DropoutMultipliers(s.dropout, tile_head, row, begin + n * 8 + lane % 4 * 2 + e % 2,
                                   own_begin + e / 2 * 8 + lane / 4);
#pragma unroll
            for (int m = 0; m < kMt; ++m) {
              const float keep = Component(kept, own_begin % 64 / 16 + m);
              ds[m][n][e] = p[m][n][e] * (ds[m][n][e] * keep - (e % 2 == 0 ? sum.x : sum.y));
              p[m][n][e] *= keep;
            }
          }
        }
      }
      uint32_t left[kN / 2][kMt][4];
      PackLeft<T>(p, left);
      AddProduct<T, kDim>(left, d_out_tile + 2 * LaneOfA(lane, kTileStride<kDim>), dv_sum);
      PackLeft<T>(ds, left);
      AddProduct<T, kDim>(left, query_tile + 2 * LaneOfA(lane, kTileStride<kDim>), dk_sum);
    }
  }
  if (own_begin >= length) return;
  float scale[kMt][2];
#pragma unroll
  for (int m = 0; m < kMt; ++m) scale[m][0] = scale[m][1] = s.scale;
  StoreRows<T, kDim>(dk_sum, scale, key_tile, lane, dk + kv_at, s.stride, own_begin, length);
#pragma unroll
  for (int m = 0; m < kMt; ++m) scale[m][0] = scale[m][1] = 1;
  StoreRows<T, kDim>(dv_sum, scale, value_tile, lane, dv + kv_at, s.stride, own_begin, length);
}

}  // namespace mindforge::cuda
