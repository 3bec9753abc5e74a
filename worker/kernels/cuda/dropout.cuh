// DropoutSite's masks on a device: the bits of the CPU column's (dropout_impl.h).
#pragma once

#include "worker/kernels/cuda/vector.cuh"

namespace mindforge::cuda {

inline constexpr int kDropoutGroup = 64;
inline constexpr int kDropoutLanes = 16;
inline constexpr int kDropoutWords = 4;

struct PhiloxWords {
  uint32_t word[kDropoutWords];
};

// Philox4x32-10 of philox.h; c: the counter, lowest word first.
__device__ inline PhiloxWords Philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2,
                                     uint32_t c3) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0;
    const uint64_t b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A counter's words fall on columns 16 apart. So that neighbouring columns are one access, a thread
// takes a tile: of a group of 64 columns, V columns of each word from `lane` on.
template <int V>
struct DropoutTile {
  static constexpr int kTiles = kDropoutLanes / V;  // of a group

  // Tile `tile` of a row.
  __device__ explicit DropoutTile(int64_t tile)
      : group(static_cast<uint32_t>(tile / kTiles)),
        lane(static_cast<uint32_t>(tile % kTiles) * V) {}

  static __host__ __device__ int64_t OfRow(int64_t columns) {
    return (columns + kDropoutGroup - 1) / kDropoutGroup * kTiles;
  }
  __device__ int64_t Column(int word) const {
    return int64_t{group} * kDropoutGroup + word * kDropoutLanes + lane;
  }
  // What the columns Column(word) + i are multiplied with.
  __device__ void Multipliers(const DropoutSite& site, int64_t index, int32_t row, int32_t position,
                              float (&out)[kDropoutWords][V]) const {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const PhiloxWords bits =
          Philox(site.key, static_cast<uint32_t>(position), static_cast<uint32_t>(row),
                 group * kDropoutLanes + lane + i, site.stream + static_cast<uint32_t>(index));
#pragma unroll
      for (int word = 0; word < kDropoutWords; ++word) {
        out[word][i] = bits.word[word] >= site.threshold ? site.scale : 0.0f;
      }
    }
  }

  uint32_t group;
  uint32_t lane;
};

}  // namespace mindforge::cuda
