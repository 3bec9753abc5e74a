// Attention of head_dim 64 on Hopper, forward.
#pragma once

#include "worker/kernels/cuda/attention_hopper.cuh"

namespace mindforge::cuda {

inline constexpr int kForwardGroups = 2;
inline constexpr int kForwardBytes = 1024 + (kForwardGroups + 2 * kQueryStages) * kHopperTileBytes +
                                     8 * (kForwardGroups + kQueryStages);

template <typename T>
__global__ void __launch_bounds__(128 * kForwardGroups, 4 / kForwardGroups)
    HopperForwardKernel(const Attention s, const int chunks, const __grid_constant__ CUtensorMap q,
                        const __grid_constant__ CUtensorMap k,
                        const __grid_constant__ CUtensorMap v, T* __restrict__ out,
                        float* __restrict__ log2_sum) {
  extern __shared__ unsigned char raw[];
  unsigned char* const shared = raw + (1024 - SharedAddress(raw) % 1024) % 1024;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, warpgroup = threadIdx.x / 128;
  const HopperQueries<kForwardGroups> at(s, chunks, warpgroup);
  if (at.empty) return;
  const uint32_t tiles = SharedAddress(shared);
  const uint32_t ring_tiles = tiles + kForwardGroups * kHopperTileBytes;
  const uint32_t barriers = ring_tiles + 2 * kQueryStages * kHopperTileBytes;  // of queries
  Ring<kQueryStages> ring{barriers + 8 * kForwardGroups};
  const auto fill = [&](int begin, int stage) {
    FillKeys(k, v, at, begin, ring_tiles + stage * 2 * kHopperTileBytes, ring.Barrier(stage));
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < kForwardGroups; ++i) InitBarrier(barriers + 8 * i, 1);
    ring.Init();
    FenceBarriers();
    for (int i = 0; i < kQueryStages - 1; ++i) {
      const int begin = at.tile_begin + i * kHopperRows;
      if (begin < at.tile_end) fill(begin, i);
    }
  }
  __syncthreads();
  const uint32_t query_tile = tiles + warpgroup * kHopperTileBytes;
  const int query = at.begin + warp * 16 + lane / 4;
  int first[2] = {0, 0};
  if (at.own_end > 0) {
    const uint32_t barrier = barriers + 8 * warpgroup;
    if (warp == 0 && lane == 0) {
      ArriveExpecting(barrier, kHopperTileBytes);
      CopyBox(query_tile, q, at.head * kHopperDim, static_cast<int>(at.tokens.start) + at.begin,
              barrier);
    }
    WaitBarrier(barrier, 0);
    for (int half = 0; half < 2 && s.first_key != nullptr; ++half) {
      if (query + half * 8 < at.tokens.length) {
        first[half] = s.first_key[at.tokens.start + query + half * 8];
      }
    }
  }
  float result[8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const float factor = s.scale * kLog2E, slack = kSlack / factor;
  for (int begin = at.tile_begin; begin < at.tile_end; begin += kHopperRows, ring.Next()) {
    ring.Wait();
    if (begin > at.tile_begin) __syncthreads();
    if (threadIdx.x == 0 && begin + (kQueryStages - 1) * kHopperRows < at.tile_end) {
      fill(begin + (kQueryStages - 1) * kHopperRows, ring.Free());
    }
    if (begin < at.own_end && begin + kHopperRows > at.first) {
      const uint32_t tile = ring_tiles + ring.stage * 2 * kHopperTileBytes;
      float p[8][4];
      BeginProducts();
      EnqueueTransposed<T>(p, query_tile, tile);
      WaitForProducts<0>();
      Settle(p);
      if (begin + kHopperRows - 1 > at.begin || begin < at.last_first) {
        HideScores(p, query, begin + lane % 4 * 2, first);
      }
      float shrink[2];
      bool grows = false;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = p[0][2 * half];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          most = fmaxf(most, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const bool grow = most > top[half] + slack;
        shrink[half] = grow ? Exp2((top[half] - most) * factor) : 1.0f;
        if (grow) top[half] = most;
        grows |= grow;
      }
      if (__any_sync(~0u, grows)) {
        sum[0] *= shrink[0];
        sum[1] *= shrink[1];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) result[n][e] *= shrink[e / 2];
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float base = top[half] == -INFINITY ? 0.0f : top[half] * factor;
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = p[n][2 * half + e];
            x = Exp2(fmaf(x, factor, -base));
            sum[half] += x;
          }
        }
      }
      uint32_t left[4][4];
      PackAccumulators<T>(p, left);
      Settle(result);
      BeginProducts();
      EnqueueSum<T>(result, left, tile + kHopperTileBytes);
      WaitForProducts<0>();
      Settle(result);
    }
  }
  if (at.own_end == 0) return;
  AwaitWarpgroup(warpgroup);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = sum[half];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if (lane % 4 == 0 && query + half * 8 < at.tokens.length) {
      log2_sum[at.head * s.tokens + at.tokens.start + query + half * 8] =
          total > 0 ? top[half] * factor + log2f(total) : kHidden;
    }
    sum[half] = total > 0 ? 1.0f / total : 0.0f;
  }
  StoreTile<T>(result, sum[0], sum[1], shared + warpgroup * kHopperTileBytes, warp, lane,
               out + at.tokens.start * s.out_stride + at.head * kHopperDim, s.out_stride, at.begin,
               at.tokens.length);
}

}  // namespace mindforge::cuda
