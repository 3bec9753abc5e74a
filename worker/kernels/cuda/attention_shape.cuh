// What attention's kernels know of a launch: AttentionShape by value, rows' places and dropout.
#pragma once

#include <stdint.h>

#include "worker/kernels/cuda/attention.h"
#include "worker/kernels/cuda/dropout.cuh"

namespace mindforge::cuda {

inline constexpr float kLog2E = 1.44269504088896341f;
// The log2 of a denominator that makes every probability of its query 0.
inline constexpr float kHidden = 1e30f;

// A row's maximum is followed only when it grows by more than this (log2): probabilities then stay
// below 2^8, and nearly all rescaling of the output falls away.
inline constexpr float kSlack = 8;

// A row's tokens.
struct Row {
  int64_t start;
  int length;
};

struct Attention {
  int batch, length, heads, kv_heads, head_dim;
  int64_t stride, out_stride, tokens;
  const int64_t* starts;
  const int32_t* first_key;
  const uint8_t* key_mask;
  bool drops;
  DropoutSite dropout;
  float scale;  // of scores

  template <typename T>
  explicit Attention(const AttentionShape<T>& s)
      : batch(static_cast<int>(s.batch)),
        length(static_cast<int>(s.length)),
        heads(static_cast<int>(s.heads)),
        kv_heads(static_cast<int>(s.kv_heads)),
        head_dim(static_cast<int>(s.head_dim)),
        stride(s.stride),
        out_stride(s.out_stride),
        tokens(s.starts == nullptr ? s.batch * s.length : s.tokens),
        starts(s.starts),
        first_key(s.first_key),
        key_mask(s.key_mask),
        drops(s.dropout != nullptr),
        dropout(s.dropout == nullptr ? DropoutSite{} : *s.dropout),
        scale(1.0f / __builtin_sqrtf(static_cast<float>(s.head_dim))) {}

  __host__ __device__ int Group() const { return heads / kv_heads; }

  __device__ Row At(int row) const {
    if (starts == nullptr) return {static_cast<int64_t>(row) * length, length};
    const int64_t start = starts[row];
    return {start, static_cast<int>(starts[row + 1] - start)};
  }
};

// The order of CTAs: of every kPairs pairs of a row and a head of keys, which share the L2 cache,
// the ones with the most work come first, so that the last of them are short.
struct CtaPlace {
  static constexpr int kPairs = 64;
  int chunk, pair;
  __device__ __forceinline__ CtaPlace(int chunks, int pairs) {
    const int set = blockIdx.x / (kPairs * chunks), within = blockIdx.x % (kPairs * chunks);
    const int count = min(kPairs, pairs - set * kPairs);
    chunk = within / count;
    pair = set * kPairs + within % count;
  }
};

// What the probabilities of `query` and the keys k, k + 16, k + 32, k + 48 are multiplied with, k
// being key without the bits 4 and 5.
__device__ __forceinline__ float4 DropoutMultipliers(const DropoutSite& site, int head, int row,
                                                     int query, int key) {
  const PhiloxWords bits = Philox(
      site.key, static_cast<uint32_t>(query), static_cast<uint32_t>(row),
      static_cast<uint32_t>(key / 64 * 16 + key % 16), site.stream + static_cast<uint32_t>(head));
  const auto multiplier = [&](int word) {
    return bits.word[word] >= site.threshold ? site.scale : 0.0f;
  };
  return {multiplier(0), multiplier(1), multiplier(2), multiplier(3)};
}

}  // namespace mindforge::cuda
