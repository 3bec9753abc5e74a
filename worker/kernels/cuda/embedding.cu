// The embedding and its backward. Backward sorts the rows by id, stably, cuts each id's rows into
// chunks of kChunk and sums a chunk in order; ids of more chunks add these up in a second kernel.
#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"
#include "worker/kernels/cuda/train_kernels_cuda.h"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kChunk = 64;
// Partial sums lie at an id's first row / kPartialRows and on: an id with more than kChunk rows has
// at most as many chunks as it has slots there.
constexpr int kPartialRows = kChunk / 2;

template <int V>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(int64_t n, int64_t c, const int64_t* __restrict__ ids,
                const float* __restrict__ table, float* __restrict__ h) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (row >= n) return;
  const float* from = table + ids[row] * c;
#pragma unroll 4
  for (int64_t i = threadIdx.x % kLanes * V; i < c; i += kLanes * V) {
    float v[V];
    Load(from + i, v);
    Store(h + row * c + i, v);
  }
}

__global__ void __launch_bounds__(kThreads)
    KeysKernel(int64_t n, const int64_t* ids, uint32_t* keys, uint32_t* rows) {
  const int64_t i = ThreadIndex();
  if (i >= n) return;
  keys[i] = static_cast<uint32_t>(ids[i]);
  rows[i] = static_cast<uint32_t>(i);
}

// starts[id]: the first of the sorted keys that is not below it, 0 <= id <= vocab.
__global__ void __launch_bounds__(kThreads)
    StartsKernel(int64_t n, int64_t vocab, const uint32_t* keys, uint32_t* starts) {
  const int64_t id = ThreadIndex();
  if (id > vocab) return;
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < id) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  starts[id] = static_cast<uint32_t>(low);
}

struct SortedRows {
  int64_t n;
  int64_t c;
  int64_t vocab;
  const uint32_t* keys;
  const uint32_t* rows;
  const uint32_t* starts;
  float* partials;
};

// sum += dh's rows `begin` … end - 1 of the order, columns i … i + V - 1.
template <int V>
__device__ inline void AddRows(const SortedRows& s, const float* dh, uint32_t begin, uint32_t end,
                               int64_t i, float (&sum)[V]) {
#pragma unroll 8
  for (uint32_t j = begin; j < end; ++j) {
    float v[V];
    Load(dh + s.rows[j] * s.c + i, v);
#pragma unroll
    for (int k = 0; k < V; ++k) sum[k] += v[k];
  }
}

template <int V>
__device__ inline void AddTo(float* target, const float (&sum)[V]) {
  float v[V];
  Load(target, v);
#pragma unroll
  for (int k = 0; k < V; ++k) v[k] += sum[k];
  Store(target, v);
}

// A warp for each place in the order and 32 · V columns; those where no chunk begins have no work.
template <int V>
__global__ void __launch_bounds__(kThreads)
    ChunkKernel(SortedRows s, const float* __restrict__ dh, float* table_gradient) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (at >= s.n) return;
  const uint32_t id = s.keys[at];
  const uint32_t start = s.starts[id];
  const uint32_t chunk = (static_cast<uint32_t>(at) - start) / kChunk;
  if (start + chunk * kChunk != at) return;
  const uint32_t end = s.starts[id + 1];
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.x % kLanes) * V;
  if (i >= s.c) return;
  float sum[V] = {};
  AddRows(s, dh, static_cast<uint32_t>(at), min(end, static_cast<uint32_t>(at) + kChunk), i, sum);
  if (end - start <= kChunk) {
    AddTo(table_gradient + id * s.c + i, sum);
  } else {
    Store(s.partials + (start / kPartialRows + chunk) * s.c + i, sum);
  }
}

// A warp for each id and 32 · V columns.
template <int V>
__global__ void __launch_bounds__(kThreads) ChunkSumKernel(SortedRows s, float* table_gradient) {
  const int64_t id = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (id >= s.vocab) return;
  const uint32_t start = s.starts[id];
  const uint32_t size = s.starts[id + 1] - start;
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.x % kLanes) * V;
  if (size <= kChunk || i >= s.c) return;
  const uint32_t chunks = (size + kChunk - 1) / kChunk;
  float sum[V] = {};
#pragma unroll 8
  for (uint32_t j = 0; j < chunks; ++j) {
    float v[V];
    Load(s.partials + (start / kPartialRows + j) * s.c + i, v);
#pragma unroll
    for (int k = 0; k < V; ++k) sum[k] += v[k];
  }
  AddTo(table_gradient + id * s.c + i, sum);
}

template <int V>
void LaunchChunks(cudaStream_t stream, const SortedRows& s, const float* dh,
                  float* table_gradient) {
  const unsigned columns = Blocks(s.c, kLanes * V);
  ChunkKernel<V>
      <<<dim3(Blocks(s.n, kWarps), columns), kThreads, 0, stream>>>(s, dh, table_gradient);
  if (s.n <= kChunk) return;
  ChunkSumKernel<V>
      <<<dim3(Blocks(s.vocab, kWarps), columns), kThreads, 0, stream>>>(s, table_gradient);
}

// Where the parts of embed_backward's workspace begin, in bytes.
struct EmbedWorkspace {
  static constexpr int64_t kAlignment = 256;

  EmbedWorkspace(int64_t n, int64_t c, int64_t vocab)
      : bits(std::bit_width(static_cast<uint64_t>(vocab))) {
    cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, static_cast<uint32_t*>(nullptr),
                                    static_cast<uint32_t*>(nullptr),
                                    static_cast<uint32_t*>(nullptr),
                                    static_cast<uint32_t*>(nullptr), static_cast<int>(n), 0, bits);
    const auto add = [this](int64_t bytes) {
      const int64_t at = total;
      total += (bytes + kAlignment - 1) / kAlignment * kAlignment;
      return at;
    };
    const int64_t words = n * static_cast<int64_t>(sizeof(uint32_t));
    keys = add(words);
    rows = add(words);
    sorted_keys = add(words);
    sorted_rows = add(words);
    starts = add((vocab + 1) * static_cast<int64_t>(sizeof(uint32_t)));
    partials = add((n / kPartialRows + 1) * c * static_cast<int64_t>(sizeof(float)));
    sort = add(static_cast<int64_t>(sort_bytes));
  }

  int bits;
  size_t sort_bytes = 0;
  int64_t keys, rows, sorted_keys, sorted_rows, starts, partials, sort;
  int64_t total = 0;
};

}  // namespace

void Embed(const Parallel& parallel, int64_t n, int64_t c, const int64_t* ids, const float* table,
           float* h) {
  if (n * c == 0) return;
  const auto kernel = c % 4 == 0 && Aligned(16, table, h) ? &EmbedKernel<4> : &EmbedKernel<1>;
  kernel<<<Blocks(n, kWarps), kThreads, 0, Stream(parallel)>>>(n, c, ids, table, h);
}

}  // namespace mindforge::cuda

namespace mindforge {

int64_t CudaEmbedBackwardWorkspace(int64_t n, int64_t c, int64_t vocab) {
  return cuda::EmbedWorkspace(n, c, vocab).total;
}

void CudaEmbedBackward(const Parallel& parallel, int64_t n, int64_t c, int64_t vocab,
                       const int64_t* ids, const float* dh, float* table_gradient,
                       void* workspace) {
  if (n * c == 0) return;
  cudaStream_t stream = cuda::Stream(parallel);
  cuda::EmbedWorkspace layout(n, c, vocab);
  char* base = static_cast<char*>(workspace);
  const auto words = [base](int64_t at) { return reinterpret_cast<uint32_t*>(base + at); };
  const unsigned blocks = cuda::Blocks(n, cuda::kThreads);
  cuda::KeysKernel<<<blocks, cuda::kThreads, 0, stream>>>(n, ids, words(layout.keys),
                                                          words(layout.rows));
  cub::DeviceRadixSort::SortPairs(
      base + layout.sort, layout.sort_bytes, words(layout.keys), words(layout.sorted_keys),
      words(layout.rows), words(layout.sorted_rows), static_cast<int>(n), 0, layout.bits, stream);
  cuda::StartsKernel<<<cuda::Blocks(vocab + 1, cuda::kThreads), cuda::kThreads, 0, stream>>>(
      n, vocab, words(layout.sorted_keys), words(layout.starts));
  const cuda::SortedRows s{n,
                           c,
                           vocab,
                           words(layout.sorted_keys),
                           words(layout.sorted_rows),
                           words(layout.starts),
                           reinterpret_cast<float*>(base + layout.partials)};
  const bool quads = c % 4 == 0 && cuda::Aligned(16, dh, table_gradient);
  const auto launch = quads ? &cuda::LaunchChunks<4> : &cuda::LaunchChunks<1>;
  launch(stream, s, dh, table_gradient);
}

}  // namespace mindforge
