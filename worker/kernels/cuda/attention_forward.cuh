// Attention on tensor cores, forward.
#pragma once

#include "worker/kernels/cuda/attention_tile.cuh"

namespace mindforge::cuda {

template <int kDim>
struct ForwardTile {
  static constexpr int kMt = 2;                       // 16-row blocks of queries of a warp
  static constexpr int kN = 4;                        // 8-key blocks scored at a time
  static constexpr int kKeys = kDim <= 96 ? 64 : 32;  // of a tile
  static constexpr bool kHold = kDim != 64 && kMt * kDim <= 192;
  static constexpr int kMinBlocks = kDim <= 64 ? 3 : 2;
  static constexpr int kRows = 16 * kMt;
  static constexpr int kBytes = TileBytes<kDim>(kWarps * kRows + 4 * kKeys);
};

template <typename T, int kDim, bool kDrop>
__global__ void __launch_bounds__(kThreads, ForwardTile<kDim>::kMinBlocks)
    ForwardKernel(const Attention s, const int chunks, const T* __restrict__ q,
                  const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ out,
                  float* __restrict__ log2_sum) {
  using Tile = ForwardTile<kDim>;
  constexpr int kMt = Tile::kMt, kN = Tile::kN, kKeys = Tile::kKeys, kRows = Tile::kRows;
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const QueryPlace<kRows> at(s, chunks, warp);
  if (at.empty) return;
  const int length = at.tokens.length;

  // Queries [kWarps · kRows], then two stages of keys and values.
  T* const query_tile = reinterpret_cast<T*>(shared) + warp * kRows * kTileStride<kDim>;
  const uint32_t keys = SharedAddress(shared) + TileBytes<kDim>(kWarps * kRows);
  const int64_t kv_at = at.tokens.start * s.stride + at.kv_head * kDim;
  const auto copy = [&](int key, int stage) {
    const uint32_t tile = keys + stage * TileBytes<kDim>(2 * kKeys);
    CopyTile<kDim, kKeys, kThreads>(tile, k + kv_at, s.stride, key, length, threadIdx.x);
    CopyTile<kDim, kKeys, kThreads>(tile + TileBytes<kDim>(kKeys), v + kv_at, s.stride, key, length,
                                    threadIdx.x);
  };
  CopyTile<kDim, kRows, 32>(SharedAddress(query_tile),
                            q + at.tokens.start * s.stride + at.head * kDim, s.stride, at.begin,
                            length, lane);
  CommitCopies();
  int tile_begin = at.key_begin / kKeys * kKeys;
  copy(tile_begin, 0);
  CommitCopies();

  Left<kDim, kMt, Tile::kHold> queries(SharedAddress(query_tile), lane);
  float result[kMt][kDim / 8][4] = {};
  float top[kMt][2], sum[kMt][2];
  int first[kMt][2];
#pragma unroll
  for (int m = 0; m < kMt; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[m][half] = -INFINITY;
      sum[m][half] = 0;
      const int query = at.begin + m * 16 + half * 8 + lane / 4;
      first[m][half] =
          s.first_key != nullptr && query < length ? s.first_key[at.tokens.start + query] : 0;
    }
  }
  const float factor = s.scale * kLog2E, slack = kSlack / factor;
  const int own_end = at.begin < length ? min(at.begin + kRows, length) : 0;

  WaitForCopies<1>();
  __syncwarp();
  queries.Hold();
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
      float p[kMt][kN][4];
      MultiplyTransposed<T>(
          queries, key_tile + 2 * (part * kTileStride<kDim> + LaneOfB(lane, kTileStride<kDim>)), p);
      if (begin + 8 * kN - 1 > at.begin || begin < at.last_first || s.key_mask != nullptr) {
        const uint8_t* mask = s.key_mask == nullptr ? nullptr : s.key_mask + at.tokens.start;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int key = begin + n * 8 + lane % 4 * 2 + e;
            const bool masked = mask != nullptr && (key >= length || mask[key] == 0);
#pragma unroll
            for (int m = 0; m < kMt; ++m) {
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                const int query = at.begin + m * 16 + half * 8 + lane / 4;
                if (key > query || key < first[m][half] || masked)
                  p[m][n][2 * half + e] = -INFINITY;
              }
            }
          }
        }
      }
      float shrink[kMt][2];
      bool grows = false;
#pragma unroll
      for (int m = 0; m < kMt; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float most = p[m][0][2 * half];
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            most = fmaxf(most, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
          }
          most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
          most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
          const float old = top[m][half];
          const bool grow = most > old + slack;
          shrink[m][half] = grow ? Exp2((old - most) * factor) : 1.0f;
          top[m][half] = grow ? most : old;
          grows |= grow;
        }
      }
      if (__any_sync(~0u, grows)) {
#pragma unroll
        for (int m = 0; m < kMt; ++m) {
          sum[m][0] *= shrink[m][0];
          sum[m][1] *= shrink[m][1];
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) result[m][n][e] *= shrink[m][e / 2];
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kMt; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float base = top[m][half] == -INFINITY ? 0.0f : top[m][half] * factor;
#pragma unroll
          for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& x = p[m][n][2 * half + e];
              x = Exp2(fmaf(x, factor, -base));
              sum[m][half] += x;
            }
          }
          if constexpr (kDrop) {
            const int query = at.begin + m * 16 + half * 8 + lane / 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              const float4 kept = DropoutMultipliers(s.dropout, at.head, at.row, query,
                                                     begin + j / 2 * 8 + lane % 4 * 2 + j % 2);
#pragma unroll
              for (int n = j / 2; n < kN; n += 2) {
                p[m][n][2 * half + j % 2] *= Component(kept, begin % 64 / 16 + n / 2);
              }
            }
          }
        }
      }
      uint32_t left[kN / 2][kMt][4];
      PackLeft<T>(p, left);
      AddProduct<T, kDim>(
          left, key_tile + TileBytes<kDim>(kKeys + part) + 2 * LaneOfA(lane, kTileStride<kDim>),
          result);
    }
  }
  if (at.begin >= length) return;
#pragma unroll
  for (int m = 0; m < kMt; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      const int query = at.begin + m * 16 + half * 8 + lane / 4;
      if (lane % 4 == 0 && query < length) {
        log2_sum[at.head * s.tokens + at.tokens.start + query] =
            total > 0 ? top[m][half] * factor + log2f(total) : kHidden;
      }
      sum[m][half] = total > 0 ? 1.0f / total : 0.0f;
    }
  }
  StoreRows<T, kDim>(result, sum, query_tile, lane,
                     out + at.tokens.start * s.out_stride + at.head * kDim, s.out_stride, at.begin,
                     length);
}

}  // namespace mindforge::cuda
