// What the three tensor-core kernels of attention share: a CTA of 4 warps whose warps each own
// 16 · kMt rows of an output (queries, or keys in the backward of k and v) and walk over tiles of
// the other side in shared memory, FlashAttention-2's way (Dao, 2023).
#pragma once

#include "worker/kernels/cuda/attention_shape.cuh"
#include "worker/kernels/cuda/mma.cuh"

namespace mindforge::cuda {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;

template <int kDim>
inline constexpr int kTileStride = kDim + kPad;
template <int kDim>
__host__ __device__ constexpr int TileBytes(int rows) {
  return rows * kTileStride<kDim> * 2;
}

// Copies rows begin … of x, `stride` elements apart, to a tile; rows from `length` on are 0. By
// kCount threads, of which this is `thread`: as many lanes a row as the power of two holds, so that
// all but one offset is the same in every thread.
template <int kDim, int kRows, int kCount, typename T>
__device__ __forceinline__ void CopyTile(uint32_t tile, const T* x, int64_t stride, int begin,
                                         int length, int thread) {
  constexpr int kChunks = kDim / 8;
  constexpr int kLanes = kChunks <= 4 ? 4 : kChunks <= 8 ? 8 : 16;
  constexpr int kPass = kCount / kLanes;
  static_assert(kRows % kPass == 0, "every thread copies as much");
  const int row = thread / kLanes, column = thread % kLanes * 8;
  if (kLanes != kChunks && column >= kDim) return;
  const T* from = x + row * static_cast<int>(stride) + column;
  const uint32_t to = tile + 2 * (row * kTileStride<kDim> + column);
#pragma unroll
  for (int pass = 0; pass < kRows; pass += kPass) {
    const bool valid = begin + pass + row < length;
    CopyAsync(to + TileBytes<kDim>(pass), valid ? from + (begin + pass) * stride : x, valid);
  }
}

// A warp's [16 · kMt, kDim] left operand, in registers (kHold) or read again from its tile.
template <int kDim, int kMt, bool kHold>
struct Left {
  uint32_t held[kHold ? kDim / 16 : 1][kMt][4];
  uint32_t at;  // of this lane

  // `tile`: the warp's first row.
  __device__ __forceinline__ Left(uint32_t tile, int lane)
      : at(tile + 2 * LaneOfA(lane, kTileStride<kDim>)) {}
  __device__ __forceinline__ void Read(int step, uint32_t (&a)[kMt][4]) const {
#pragma unroll
    for (int m = 0; m < kMt; ++m)
      LoadMatrices(a[m], at + 2 * (m * 16 * kTileStride<kDim> + step * 16));
  }
  // After the tile has arrived.
  __device__ __forceinline__ void Hold() {
    if constexpr (kHold) {
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) Read(step, held[step]);
    }
  }
};

// c = left · tileᵀ, tile [8 · kN, kDim]; `tile` is LaneOfB's address.
template <typename T, int kDim, int kMt, int kN, bool kHold>
__device__ __forceinline__ void MultiplyTransposed(const Left<kDim, kMt, kHold>& left,
                                                   uint32_t tile, float (&c)[kMt][kN][4]) {
#pragma unroll
  for (int m = 0; m < kMt; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) c[m][n][e] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t read[kMt][4];
    if constexpr (!kHold) left.Read(step, read);
    const auto& a = [&]() -> const uint32_t(&)[kMt][4] {
      if constexpr (kHold)
        return left.held[step];
      else
        return read;
    }();
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      LoadMatrices(b, tile + 2 * (n * 8 * kTileStride<kDim> + step * 16));
#pragma unroll
      for (int m = 0; m < kMt; ++m) {
        Mma<T>(c[m][n], a[m], b[0], b[1]);
        Mma<T>(c[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Accumulators rounded to T as a left operand of kN / 2 steps.
template <typename T, int kMt, int kN>
__device__ __forceinline__ void PackLeft(const float (&c)[kMt][kN][4],
                                         uint32_t (&a)[kN / 2][kMt][4]) {
#pragma unroll
  for (int step = 0; step < kN / 2; ++step) {
#pragma unroll
    for (int m = 0; m < kMt; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float(&from)[4] = c[m][2 * step + e / 2];
        a[step][m][e] = Pack(from[e % 2 * 2], from[e % 2 * 2 + 1], T{});
      }
    }
  }
}

// c += a · tile, tile [16 · kSteps, kDim]; `tile` is LaneOfA's address.
template <typename T, int kDim, int kMt, int kSteps>
__device__ __forceinline__ void AddProduct(const uint32_t (&a)[kSteps][kMt][4], uint32_t tile,
                                           float (&c)[kMt][kDim / 8][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      uint32_t b[4];
      LoadTransposed(b, tile + 2 * (step * 16 * kTileStride<kDim> + n * 8));
#pragma unroll
      for (int m = 0; m < kMt; ++m) {
        Mma<T>(c[m][n], a[step][m], b[0], b[1]);
        Mma<T>(c[m][n + 1], a[step][m], b[2], b[3]);
      }
    }
  }
}

// Writes a warp's accumulators, row r times scale[m][r / 8], through its own rows of a tile, so
// that they go out 16 bytes at a time. Rows from `length` on are left out.
template <typename T, int kDim, int kMt>
__device__ __forceinline__ void StoreRows(const float (&c)[kMt][kDim / 8][4],
                                          const float (&scale)[kMt][2], T* tile, int lane, T* out,
                                          int64_t stride, int begin, int length) {
  constexpr int kStride = kTileStride<kDim>;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kMt; ++m) {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = m * 16 + half * 8 + lane / 4;
        *reinterpret_cast<uint32_t*>(tile + row * kStride + n * 8 + lane % 4 * 2) =
            Pack(c[m][n][2 * half] * scale[m][half], c[m][n][2 * half + 1] * scale[m][half], T{});
      }
    }
  }
  __syncwarp();
  constexpr int kChunks = kDim / 8;
#pragma unroll
  for (int i = lane; i < 16 * kMt * kChunks; i += 32) {
    const int row = i / kChunks, column = i % kChunks * 8;
    if (begin + row >= length) continue;
    *reinterpret_cast<uint4*>(out + (begin + row) * stride + column) =
        *reinterpret_cast<const uint4*>(tile + row * kStride + column);
  }
}

// The queries that a CTA's warps own: `kRows` of one head each. The heads of a group are
// neighbours, so that they share tiles of keys and values.
template <int kRows>
struct QueryPlace {
  int row, kv_head, head;
  int begin;               // the warp's first query
  int key_begin, key_end;  // what the CTA's warps see
  int first, last_first;   // the first keys of the warp's first and last query
  Row tokens;
  bool empty;  // the CTA has no queries

  static __host__ int Chunks(const Attention& s) {
    return ((s.length + kRows - 1) / kRows * s.Group() + kWarps - 1) / kWarps;
  }
  static __host__ unsigned Grid(const Attention& s) { return Chunks(s) * s.batch * s.kv_heads; }

  __device__ __forceinline__ QueryPlace(const Attention& s, int chunks, int warp) {
    const CtaPlace place(chunks, s.batch * s.kv_heads);
    const int chunk = chunks - 1 - place.chunk, group = s.Group();
    kv_head = place.pair % s.kv_heads;
    row = place.pair / s.kv_heads;
    tokens = s.At(row);
    const int units = (tokens.length + kRows - 1) / kRows * group;
    empty = chunk * kWarps >= units;
    if (empty) return;
    const int unit = chunk * kWarps + warp;
    head = kv_head * group + unit % group;
    begin = unit / group * kRows;
    const int last = min(chunk * kWarps + kWarps, units) - 1;
    key_end = min(tokens.length, last / group * kRows + kRows);
    key_begin = first = last_first = 0;
    if (s.first_key == nullptr) return;
    const int32_t* firsts = s.first_key + tokens.start;
    key_begin = firsts[chunk * kWarps / group * kRows];
    if (begin >= tokens.length) return;
    first = firsts[begin];
    last_first = firsts[min(begin + kRows, tokens.length) - 1];
  }
};

__device__ __forceinline__ float Component(const float4& m, int i) {
  return i == 0 ? m.x : i == 1 ? m.y : i == 2 ? m.z : m.w;
}

}  // namespace mindforge::cuda
