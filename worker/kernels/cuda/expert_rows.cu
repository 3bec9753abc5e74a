// Rows of tokens to experts' slots and back: a thread takes 16 bytes of a row, with dropout a tile.
#include "worker/kernels/cuda/dropout.cuh"
#include "worker/kernels/cuda/kernels.h"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) GatherKernel(RowGather g, const T* x, T* out) {
  const auto [slot, piece] = Divide(ThreadIndex(), g.columns / V);
  if (slot >= g.slots) return;
  const int64_t token = g.tokens[slot];
  float v[V] = {};
  if (token >= 0) Load(x + token * g.columns + piece * V, v);
  Store(out + slot * g.columns + piece * V, v);
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    GatherDroppedKernel(RowGather g, DropoutSite site, const T* x, T* out) {
  const auto [slot, of_row] = Divide(ThreadIndex(), DropoutTile<V>::OfRow(g.columns));
  if (slot >= g.slots) return;
  const DropoutTile<V> tile(of_row);
  const int64_t token = g.tokens[slot];
  float keep[kDropoutWords][V] = {};
  if (token >= 0) {
    tile.Multipliers(site, g.experts[slot], g.places.rows[token], g.places.positions[token], keep);
  }
#pragma unroll
  for (int word = 0; word < kDropoutWords; ++word) {
    const int64_t column = tile.Column(word);
    if (column >= g.columns) continue;
    float v[V] = {};
    if (token >= 0) Load(x + token * g.columns + column, v);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] *= keep[word][i];
    Store(out + slot * g.columns + column, v);
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) CombineKernel(RowCombine<T> k, T* out) {
  const auto [token, piece] = Divide(ThreadIndex(), k.columns / V);
  if (token >= k.tokens) return;
  const int64_t column = piece * V;
  float sum[V] = {};
  if (k.base != nullptr) Load(k.base + token * k.columns + column, sum);
  for (int64_t j = 0; j < k.top_k; ++j) {
    float v[V];
    Load(k.x + k.slots[token * k.top_k + j] * k.columns + column, v);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += v[i];
  }
  for (int64_t e = 0; e < k.experts; ++e) {
    float w[V];
    Load(k.router + e * k.columns + column, w);
    const float d = k.d_logits[token * k.experts + e];
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += w[i] * d;
  }
  Store(out + token * k.columns + column, sum);
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    CombineDroppedKernel(RowCombine<T> k, DropoutSite site, T* out) {
  const auto [token, of_row] = Divide(ThreadIndex(), DropoutTile<V>::OfRow(k.columns));
  if (token >= k.tokens) return;
  const DropoutTile<V> tile(of_row);
  float sum[kDropoutWords][V] = {};
#pragma unroll
  for (int word = 0; word < kDropoutWords; ++word) {
    const int64_t column = tile.Column(word);
    if (k.base != nullptr && column < k.columns) {
      Load(k.base + token * k.columns + column, sum[word]);
    }
  }
  for (int64_t j = 0; j < k.top_k; ++j) {
    const int64_t at = token * k.top_k + j;
    float keep[kDropoutWords][V];
    tile.Multipliers(site, k.chosen[at], k.places.rows[token], k.places.positions[token], keep);
#pragma unroll
    for (int word = 0; word < kDropoutWords; ++word) {
      const int64_t column = tile.Column(word);
      if (column >= k.columns) continue;
      float v[V];
      Load(k.x + k.slots[at] * k.columns + column, v);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[word][i] += v[i] * keep[word][i];
    }
  }
#pragma unroll
  for (int word = 0; word < kDropoutWords; ++word) {
    const int64_t column = tile.Column(word);
    if (column < k.columns) Store(out + token * k.columns + column, sum[word]);
  }
}

template <typename T, int V>
void LaunchGather(cudaStream_t stream, const RowGather& g, const T* x, T* out) {
  if (g.dropout == nullptr) {
    const int64_t pieces = g.slots * g.columns / V;
    GatherKernel<T, V><<<Blocks(pieces, kThreads), kThreads, 0, stream>>>(g, x, out);
  } else {
    const int64_t tiles = g.slots * DropoutTile<V>::OfRow(g.columns);
    GatherDroppedKernel<T, V>
        <<<Blocks(tiles, kThreads), kThreads, 0, stream>>>(g, *g.dropout, x, out);
  }
}

template <typename T, int V>
void LaunchCombine(cudaStream_t stream, const RowCombine<T>& k, T* out) {
  if (k.dropout == nullptr) {
    const int64_t pieces = k.tokens * k.columns / V;
    CombineKernel<T, V><<<Blocks(pieces, kThreads), kThreads, 0, stream>>>(k, out);
  } else {
    const int64_t tiles = k.tokens * DropoutTile<V>::OfRow(k.columns);
    CombineDroppedKernel<T, V>
        <<<Blocks(tiles, kThreads), kThreads, 0, stream>>>(k, *k.dropout, out);
  }
}

}  // namespace

template <typename T>
void GatherRows(const Parallel& parallel, const RowGather& g, const T* x, T* out) {
  if (g.slots * g.columns == 0) return;
  const bool wide = g.columns % kWide<T> == 0 && Aligned(16, x, out);
  const auto launch = wide ? &LaunchGather<T, kWide<T>> : &LaunchGather<T, 1>;
  launch(Stream(parallel), g, x, out);
}

template <typename T>
void CombineRows(const Parallel& parallel, const RowCombine<T>& k, T* out) {
  if (k.tokens * k.columns == 0) return;
  const bool wide = k.columns % kWide<T> == 0 && Aligned(16, k.x, k.base, k.router, out);
  const auto launch = wide ? &LaunchCombine<T, kWide<T>> : &LaunchCombine<T, 1>;
  launch(Stream(parallel), k, out);
}

#define MINDFORGE_INSTANTIATE_EXPERT_ROWS(T)                                 \
  template void GatherRows(const Parallel&, const RowGather&, const T*, T*); \
  template void CombineRows(const Parallel&, const RowCombine<T>&, T*);
MINDFORGE_INSTANTIATE_EXPERT_ROWS(float)
MINDFORGE_INSTANTIATE_EXPERT_ROWS(Bf16)
MINDFORGE_INSTANTIATE_EXPERT_ROWS(Half)

}  // namespace mindforge::cuda
