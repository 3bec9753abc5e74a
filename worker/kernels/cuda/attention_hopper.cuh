// Attention of head_dim 64 on Hopper: the cuts of the portable kernels (attention_tile.cuh) with
// warpgroup products. A CTA is warpgroups that each own 64 rows of an output; its first thread
// keeps a ring of tiles of the other side filled. Several small CTAs on a multiprocessor hide each
// other's beginnings and ends, which at training's row lengths outweigh the loops. No dropout.
#pragma once

#include "worker/kernels/cuda/attention_shape.cuh"
#include "worker/kernels/cuda/hopper.cuh"
#include "worker/kernels/cuda/mma.cuh"

namespace mindforge::cuda {

inline constexpr int kHopperDim = 64;
inline constexpr int kHopperRows = 64;  // of a tile
inline constexpr int kHopperTileBytes = kHopperRows * kTileRowBytes;

// A ring of tiles in shared memory, of which each turn of a loop reads one, and the barriers on
// which they arrive.
template <int kStages>
struct Ring {
  uint32_t barriers;  // [kStages]
  int stage = 0, parity = 0;

  __device__ __forceinline__ void Init() const {
    for (int i = 0; i < kStages; ++i) InitBarrier(barriers + 8 * i, 1);
  }
  __device__ __forceinline__ uint32_t Barrier(int i) const { return barriers + 8 * i; }
  __device__ __forceinline__ void Wait() const { WaitBarrier(Barrier(stage), parity); }
  // The stage before this turn's, which everybody has read: the next to fill.
  __device__ __forceinline__ int Free() const { return (stage + kStages - 1) % kStages; }
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// A warpgroup's [64, 64] left operand from a tile.
__device__ __forceinline__ void ReadLeft(uint32_t tile, int warp, int lane, uint32_t (&a)[4][4]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    LoadMatrices(a[step], tile + Swizzled(warp * 16 + lane % 16, step * 2 + lane / 16));
  }
}

template <typename T>
__device__ __forceinline__ void PackAccumulators(const float (&c)[8][4], uint32_t (&a)[4][4]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float(&from)[4] = c[2 * step + e / 2];
      a[step][e] = Pack(from[e % 2 * 2], from[e % 2 * 2 + 1], T{});
    }
  }
}

// Until all 4 warps' products have read the tiles that the results go out through.
__device__ __forceinline__ void AwaitWarpgroup(int warpgroup) {
  asm volatile("bar.sync %0, 128;" ::"r"(warpgroup + 1) : "memory");
}

// Writes a warp's 16 rows of accumulators through its own rows of a tile. Rows from `length` on are
// left out.
template <typename T>
__device__ __forceinline__ void StoreTile(const float (&c)[8][4], float scale_low, float scale_high,
                                          unsigned char* tile, int warp, int lane, T* out,
                                          int64_t stride, int begin, int length) {
  __syncwarp();
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = half == 0 ? scale_low : scale_high;
      *reinterpret_cast<uint32_t*>(tile + Swizzled(warp * 16 + half * 8 + lane / 4, n) +
                                   lane % 4 * 4) =
          Pack(c[n][2 * half] * scale, c[n][2 * half + 1] * scale, T{});
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = warp * 16 + i * 4 + lane / 8;
    if (begin + row >= length) continue;
    *reinterpret_cast<uint4*>(out + (begin + row) * stride + lane % 8 * 8) =
        *reinterpret_cast<const uint4*>(tile + Swizzled(row, lane % 8));
  }
}

// Which queries a warpgroup owns: 64 of one head.
template <int kGroups>
struct HopperQueries {
  int row, kv_head, head, begin, own_end, tile_begin, tile_end, first, last_first;
  Row tokens;
  bool empty;

  static int Chunks(const Attention& s) {
    return ((s.length + kHopperRows - 1) / kHopperRows * s.Group() + kGroups - 1) / kGroups;
  }
  static unsigned Grid(const Attention& s) { return Chunks(s) * s.batch * s.kv_heads; }

  __device__ __forceinline__ HopperQueries(const Attention& s, int chunks, int warpgroup) {
    const CtaPlace place(chunks, s.batch * s.kv_heads);
    const int chunk = chunks - 1 - place.chunk, group = s.Group();
    kv_head = place.pair % s.kv_heads;
    row = place.pair / s.kv_heads;
    tokens = s.At(row);
    const int units = (tokens.length + kHopperRows - 1) / kHopperRows * group;
    empty = chunk * kGroups >= units;
    if (empty) return;
    const int unit = chunk * kGroups + warpgroup;
    head = kv_head * group + unit % group;
    begin = unit / group * kHopperRows;
    own_end = min(begin + kHopperRows, tokens.length);
    if (begin >= tokens.length) own_end = 0;
    const int last = min(chunk * kGroups + kGroups, units) - 1;
    tile_end = min(tokens.length, last / group * kHopperRows + kHopperRows);
    tile_begin = first = last_first = 0;
    if (s.first_key == nullptr) return;
    const int32_t* firsts = s.first_key + tokens.start;
    tile_begin = firsts[chunk * kGroups / group * kHopperRows] / kHopperRows * kHopperRows;
    if (own_end == 0) return;
    first = firsts[begin];
    last_first = firsts[own_end - 1];
  }
};

inline constexpr int kQueryStages = 4;

// Copies the tiles of keys and values from `begin` on to a stage.
template <typename Queries>
__device__ __forceinline__ void FillKeys(const CUtensorMap& k, const CUtensorMap& v,
                                         const Queries& at, int begin, uint32_t tile,
                                         uint32_t barrier) {
  const int token = static_cast<int>(at.tokens.start) + begin;
  ArriveExpecting(barrier, 2 * kHopperTileBytes);
  CopyBox(tile, k, at.kv_head * kHopperDim, token, barrier);
  CopyBox(tile + kHopperTileBytes, v, at.kv_head * kHopperDim, token, barrier);
}

// Hides what a query of [begin, begin + 64) may not see of the keys [key_begin, …).
__device__ __forceinline__ void HideScores(float (&p)[8][4], int query, int key,
                                           const int (&first)[2]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = key + n * 8 + e % 2;
      if (column > query + e / 2 * 8 || column < first[e / 2]) p[n][e] = -INFINITY;
    }
  }
}

}  // namespace mindforge::cuda
