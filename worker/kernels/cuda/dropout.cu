#include "worker/kernels/cuda/dropout.cuh"
#include "worker/kernels/cuda/kernels.h"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    DropoutKernel(int64_t n, int64_t c, TokenPlaces places, DropoutSite site, int64_t index,
                  const T* x, T* y) {
  const auto [row, of_row] = Divide(ThreadIndex(), DropoutTile<V>::OfRow(c));
  if (row >= n) return;
  const DropoutTile<V> tile(of_row);
  float v[kDropoutWords][V], keep[kDropoutWords][V];
#pragma unroll
  for (int word = 0; word < kDropoutWords; ++word) {
    if (tile.Column(word) < c) Load(x + row * c + tile.Column(word), v[word]);
  }
  tile.Multipliers(site, index, places.rows[row], places.positions[row], keep);
#pragma unroll
  for (int word = 0; word < kDropoutWords; ++word) {
    if (tile.Column(word) >= c) continue;
#pragma unroll
    for (int i = 0; i < V; ++i) v[word][i] *= keep[word][i];
    Store(y + row * c + tile.Column(word), v[word]);
  }
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    DropoutScoresKernel(int64_t queries, int64_t heads, int64_t length, DropoutSite site,
                        float* out) {
  const auto [query, of_row] = Divide(ThreadIndex(), DropoutTile<V>::OfRow(length));
  if (query >= queries) return;
  const auto [row_head, position] = Divide(query, length);
  const auto [row, head] = Divide(row_head, heads);
  const DropoutTile<V> tile(of_row);
  float keep[kDropoutWords][V];
  tile.Multipliers(site, head, static_cast<int32_t>(row), static_cast<int32_t>(position), keep);
#pragma unroll
  for (int word = 0; word < kDropoutWords; ++word) {
    if (tile.Column(word) < length) Store(out + query * length + tile.Column(word), keep[word]);
  }
}

}  // namespace

template <typename T>
void Dropout(const Parallel& parallel, int64_t n, int64_t c, const TokenPlaces& places,
             const DropoutSite& site, int64_t index, const T* x, T* y) {
  if (n * c == 0) return;
  constexpr int V = kWide<T>;
  if (c % V == 0 && Aligned(16, x, y)) {
    const int64_t tiles = n * DropoutTile<V>::OfRow(c);
    DropoutKernel<T, V><<<Blocks(tiles, kThreads), kThreads, 0, Stream(parallel)>>>(
        n, c, places, site, index, x, y);
  } else {
    const int64_t tiles = n * DropoutTile<1>::OfRow(c);
    DropoutKernel<T, 1><<<Blocks(tiles, kThreads), kThreads, 0, Stream(parallel)>>>(
        n, c, places, site, index, x, y);
  }
}

void DropoutScores(const Parallel& parallel, int64_t batch, int64_t heads, int64_t length,
                   const DropoutSite& site, float* out) {
  const int64_t queries = batch * heads * length;
  if (queries == 0) return;
  if (length % 4 == 0 && Aligned(16, out)) {
    const int64_t tiles = queries * DropoutTile<4>::OfRow(length);
    DropoutScoresKernel<4><<<Blocks(tiles, kThreads), kThreads, 0, Stream(parallel)>>>(
        queries, heads, length, site, out);
  } else {
    const int64_t tiles = queries * DropoutTile<1>::OfRow(length);
    DropoutScoresKernel<1><<<Blocks(tiles, kThreads), kThreads, 0, Stream(parallel)>>>(
        queries, heads, length, site, out);
  }
}

#define MINDFORGE_INSTANTIATE_DROPOUT(T)                                                           \
  template void Dropout(const Parallel&, int64_t, int64_t, const TokenPlaces&, const DropoutSite&, \
                        int64_t, const T*, T*);
MINDFORGE_INSTANTIATE_DROPOUT(float)
MINDFORGE_INSTANTIATE_DROPOUT(Bf16)
MINDFORGE_INSTANTIATE_DROPOUT(Half)

}  // namespace mindforge::cuda
