// Attention of head_dim 64 on Hopper, backward: one kernel for dq, one for dk and dv, each writing
// what its CTA owns, as attention_backward.cuh's.
#pragma once

#include "worker/kernels/cuda/attention_hopper.cuh"

namespace mindforge::cuda {

inline constexpr int kQueryGroups = 2;
inline constexpr int kQueryGradientBytes =
    1024 + 2 * (kQueryGroups + kQueryStages) * kHopperTileBytes + 8 * (kQueryGroups + kQueryStages);

// dq, and delta [heads, tokens]: the row sums of out · d_out.
template <typename T>
__global__ void __launch_bounds__(128 * kQueryGroups, 4 / kQueryGroups)
    HopperQueryGradientKernel(const Attention s, const int chunks,
                              const __grid_constant__ CUtensorMap q,
                              const __grid_constant__ CUtensorMap k,
                              const __grid_constant__ CUtensorMap v,
                              const __grid_constant__ CUtensorMap d_out, const T* __restrict__ out,
                              const float* __restrict__ log2_sum, T* __restrict__ dq,
                              float* __restrict__ delta) {
  extern __shared__ unsigned char raw[];
  unsigned char* const shared = raw + (1024 - SharedAddress(raw) % 1024) % 1024;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, warpgroup = threadIdx.x / 128;
  const HopperQueries<kQueryGroups> at(s, chunks, warpgroup);
  if (at.empty) return;
  const uint32_t tiles = SharedAddress(shared);
  const uint32_t ring_tiles = tiles + 2 * kQueryGroups * kHopperTileBytes;
  const uint32_t barriers = ring_tiles + 2 * kQueryStages * kHopperTileBytes;
  Ring<kQueryStages> ring{barriers + 8 * kQueryGroups};
  const auto fill = [&](int begin, int stage) {
    FillKeys(k, v, at, begin, ring_tiles + stage * 2 * kHopperTileBytes, ring.Barrier(stage));
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < kQueryGroups; ++i) InitBarrier(barriers + 8 * i, 1);
    ring.Init();
    FenceBarriers();
    for (int i = 0; i < kQueryStages - 1; ++i) {
      const int begin = at.tile_begin + i * kHopperRows;
      if (begin < at.tile_end) fill(begin, i);
    }
  }
  __syncthreads();
  const uint32_t query_tile = tiles + 2 * warpgroup * kHopperTileBytes;
  const int query = at.begin + warp * 16 + lane / 4;
  int first[2] = {0, 0};
  float row_sum[2] = {kHidden, kHidden}, row_delta[2] = {0, 0};
  if (at.own_end > 0) {
    const uint32_t barrier = barriers + 8 * warpgroup;
    if (warp == 0 && lane == 0) {
      const int token = static_cast<int>(at.tokens.start) + at.begin;
      ArriveExpecting(barrier, 2 * kHopperTileBytes);
      CopyBox(query_tile, q, at.head * kHopperDim, token, barrier);
      CopyBox(query_tile + kHopperTileBytes, d_out, at.head * kHopperDim, token, barrier);
    }
    WaitBarrier(barrier, 0);
    uint32_t d_outs[4][4];
    ReadLeft(query_tile + kHopperTileBytes, warp, lane, d_outs);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own = query + half * 8;
      if (own >= at.tokens.length) continue;
      const T* const o = out + (at.tokens.start + own) * s.out_stride + at.head * kHopperDim;
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const float2 x = Unpack(
              *reinterpret_cast<const uint32_t*>(o + step * 16 + side * 8 + lane % 4 * 2), T{});
          const float2 y = Unpack(d_outs[step][2 * side + half], T{});
          row_delta[half] += x.x * y.x + x.y * y.y;
        }
      }
      const int64_t place = at.head * s.tokens + at.tokens.start + own;
      row_sum[half] = log2_sum[place];
      if (s.first_key != nullptr) first[half] = s.first_key[at.tokens.start + own];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      row_delta[half] += __shfl_xor_sync(~0u, row_delta[half], 1);
      row_delta[half] += __shfl_xor_sync(~0u, row_delta[half], 2);
      if (lane % 4 == 0 && query + half * 8 < at.tokens.length) {
        delta[at.head * s.tokens + at.tokens.start + query + half * 8] = row_delta[half];
      }
    }
  }
  float result[8][4] = {};
  const float factor = s.scale * kLog2E;
  for (int begin = at.tile_begin; begin < at.tile_end; begin += kHopperRows, ring.Next()) {
    ring.Wait();
    if (begin > at.tile_begin) __syncthreads();
    if (threadIdx.x == 0 && begin + (kQueryStages - 1) * kHopperRows < at.tile_end) {
      fill(begin + (kQueryStages - 1) * kHopperRows, ring.Free());
    }
    if (begin < at.own_end && begin + kHopperRows > at.first) {
      const uint32_t tile = ring_tiles + ring.stage * 2 * kHopperTileBytes;
      float p[8][4], ds[8][4];
      BeginProducts();
      EnqueueTransposed<T>(p, query_tile, tile);
      EnqueueTransposed<T>(ds, query_tile + kHopperTileBytes, tile + kHopperTileBytes);
      WaitForProducts<1>();
      Settle(p);
      if (begin + kHopperRows - 1 > at.begin || begin < at.last_first) {
        HideScores(p, query, begin + lane % 4 * 2, first);
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) p[n][e] = Exp2(fmaf(p[n][e], factor, -row_sum[e / 2]));
      }
      WaitForProducts<0>();
      Settle(ds);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[n][e] = p[n][e] * (ds[n][e] - row_delta[e / 2]);
      }
      uint32_t left[4][4];
      PackAccumulators<T>(ds, left);
      BeginProducts();
      EnqueueSum<T>(result, left, tile);
      WaitForProducts<0>();
      Settle(result);
    }
  }
  if (at.own_end == 0) return;
  AwaitWarpgroup(warpgroup);
  StoreTile<T>(result, s.scale, s.scale, shared + 2 * warpgroup * kHopperTileBytes, warp, lane,
               dq + at.tokens.start * s.stride + at.head * kHopperDim, s.stride, at.begin,
               at.tokens.length);
}

inline constexpr int kKeyGroups = 1;
inline constexpr int kKeyStages = 3;
inline constexpr int kKeyStageBytes = 2 * kHopperTileBytes;
inline constexpr int kKeyGradientBytes = 1024 + 2 * kKeyGroups * kHopperTileBytes +
                                         kKeyStages * (kKeyStageBytes + 2 * 4 * kHopperRows) +
                                         8 * (kKeyGroups + kKeyStages);

// dk and dv: a warpgroup owns 64 keys of one head of keys; the CTA walks over the queries of its
// heads. Scores stand transposed, [keys, queries].
template <typename T>
__global__ void __launch_bounds__(128 * kKeyGroups, 3 / kKeyGroups)
    HopperKeyGradientKernel(const Attention s, const int chunks,
                            const __grid_constant__ CUtensorMap q,
                            const __grid_constant__ CUtensorMap k,
                            const __grid_constant__ CUtensorMap v,
                            const __grid_constant__ CUtensorMap d_out,
                            const float* __restrict__ log2_sum, const float* __restrict__ delta,
                            T* __restrict__ dk, T* __restrict__ dv) {
  extern __shared__ unsigned char raw[];
  unsigned char* const shared = raw + (1024 - SharedAddress(raw) % 1024) % 1024;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, warpgroup = threadIdx.x / 128;
  const CtaPlace place(chunks, s.batch * s.kv_heads);
  const int kv_head = place.pair % s.kv_heads, row = place.pair / s.kv_heads;
  const Row tokens = s.At(row);
  const int length = tokens.length;
  const int cta_begin = place.chunk * kKeyGroups * kHopperRows;
  if (cta_begin >= length) return;
  int query_end = length;
  if (s.first_key != nullptr) {
    // first_key does not decrease: the queries that see one of these keys are the ones before the
    // first that sees none.
    query_end = 0;
    for (int i = 0; i < length; i += 128 * kKeyGroups) {
      const int query = i + static_cast<int>(threadIdx.x);
      query_end += __syncthreads_count(query < length && s.first_key[tokens.start + query] <
                                                             cta_begin + kKeyGroups * kHopperRows);
    }
  }
  const uint32_t own_tiles = SharedAddress(shared);
  const uint32_t ring_tiles = own_tiles + 2 * kKeyGroups * kHopperTileBytes;
  // [kKeyStages][2][64]: log2_sum and delta
  float* const sums = reinterpret_cast<float*>(shared + 2 * kKeyGroups * kHopperTileBytes +
                                               kKeyStages * kKeyStageBytes);
  const uint32_t barriers = SharedAddress(sums + kKeyStages * 2 * kHopperRows);
  Ring<kKeyStages> ring{barriers + 8 * kKeyGroups};
  const int head_begin = kv_head * s.Group();
  const int head_tiles = (query_end - cta_begin + kHopperRows - 1) / kHopperRows;
  const int turns = head_tiles * s.Group();
  // Tiles of the turn that `next` stands at, and their sums, a word a thread.
  int next_head = head_begin, next_begin = cta_begin, next_turn = 0;
  const auto fill = [&](int stage) {
    const uint32_t tile = ring_tiles + stage * kKeyStageBytes;
    if (threadIdx.x == 0) {
      const int token = static_cast<int>(tokens.start) + next_begin;
      ArriveExpecting(ring.Barrier(stage), kKeyStageBytes);
      CopyBox(tile, q, next_head * kHopperDim, token, ring.Barrier(stage));
      CopyBox(tile + kHopperTileBytes, d_out, next_head * kHopperDim, token, ring.Barrier(stage));
    }
    if (threadIdx.x < 128) {
      const int i = threadIdx.x % kHopperRows;
      const bool valid = next_begin + i < length;
      const float* const from = threadIdx.x < kHopperRows ? log2_sum : delta;
      float* const to = sums + stage * 2 * kHopperRows + threadIdx.x;
      if (valid) {
        CopyWord(SharedAddress(to), from + next_head * s.tokens + tokens.start + next_begin + i);
      } else {
        *to = threadIdx.x < kHopperRows ? kHidden : 0.0f;
      }
    }
    ++next_turn;
    next_begin += kHopperRows;
    if (next_begin >= query_end) {
      next_begin = cta_begin;
      ++next_head;
    }
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < kKeyGroups; ++i) InitBarrier(barriers + 8 * i, 1);
    ring.Init();
    FenceBarriers();
  }
  __syncthreads();
  for (int i = 0; i < kKeyStages - 1; ++i) {
    if (next_turn < turns) fill(i);
    CommitCopies();
  }
  const int own_begin = cta_begin + warpgroup * kHopperRows;
  const uint32_t key_tile = own_tiles + 2 * warpgroup * kHopperTileBytes;
  if (own_begin < length) {
    const uint32_t barrier = barriers + 8 * warpgroup;
    if (warp == 0 && lane == 0) {
      const int token = static_cast<int>(tokens.start) + own_begin;
      ArriveExpecting(barrier, 2 * kHopperTileBytes);
      CopyBox(key_tile, k, kv_head * kHopperDim, token, barrier);
      CopyBox(key_tile + kHopperTileBytes, v, kv_head * kHopperDim, token, barrier);
    }
    WaitBarrier(barrier, 0);
  }
  float dk_sum[8][4] = {}, dv_sum[8][4] = {};
  const float factor = s.scale * kLog2E;
  const int key = own_begin + warp * 16 + lane / 4;
  for (int head = head_begin; head < head_begin + s.Group(); ++head) {
    for (int begin = cta_begin; begin < query_end; begin += kHopperRows, ring.Next()) {
      WaitForCopies<kKeyStages - 2>();
      __syncthreads();
      if (next_turn < turns) fill(ring.Free());
      CommitCopies();
      ring.Wait();
      if (begin >= own_begin && own_begin < length) {
        const uint32_t query_tile = ring_tiles + ring.stage * kKeyStageBytes;
        const uint32_t d_out_tile = query_tile + kHopperTileBytes;
        const float* const tile_sums = sums + ring.stage * 2 * kHopperRows + lane % 4 * 2;
        float p[8][4], ds[8][4];
        BeginProducts();
        EnqueueTransposed<T>(p, key_tile, query_tile);
        EnqueueTransposed<T>(ds, key_tile + kHopperTileBytes, d_out_tile);
        WaitForProducts<1>();
        Settle(p);
        if (begin < own_begin + kHopperRows - 1 || s.first_key != nullptr) {
#pragma unroll
          for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int query = begin + n * 8 + lane % 4 * 2 + e;
              const int first =
                  s.first_key != nullptr && query < length ? s.first_key[tokens.start + query] : 0;
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                if (key + half * 8 > query || key + half * 8 < first)
                  p[n][2 * half + e] = -INFINITY;
              }
            }
          }
        }
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          const float2 sum = *reinterpret_cast<const float2*>(tile_sums + n * 8);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            p[n][e] = Exp2(fmaf(p[n][e], factor, -(e % 2 == 0 ? sum.x : sum.y)));
          }
        }
        WaitForProducts<0>();
        Settle(ds);
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          const float2 sum = *reinterpret_cast<const float2*>(tile_sums + kHopperRows + n * 8);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            ds[n][e] = p[n][e] * (ds[n][e] - (e % 2 == 0 ? sum.x : sum.y));
          }
        }
        uint32_t p_left[4][4], ds_left[4][4];
        PackAccumulators<T>(p, p_left);
        PackAccumulators<T>(ds, ds_left);
        BeginProducts();
        EnqueueSum<T>(dv_sum, p_left, d_out_tile);
        EnqueueSum<T>(dk_sum, ds_left, query_tile);
        WaitForProducts<0>();
        Settle(dv_sum);
        Settle(dk_sum);
      }
    }
  }
  if (own_begin >= length) return;
  AwaitWarpgroup(warpgroup);
  unsigned char* const own = shared + 2 * warpgroup * kHopperTileBytes;
  const int64_t at = tokens.start * s.stride + kv_head * kHopperDim;
  StoreTile<T>(dk_sum, s.scale, s.scale, own, warp, lane, dk + at, s.stride, own_begin, length);
  StoreTile<T>(dv_sum, 1.0f, 1.0f, own + kHopperTileBytes, warp, lane, dv + at, s.stride, own_begin,
               length);
}

}  // namespace mindforge::cuda
