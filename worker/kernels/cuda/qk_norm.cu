// RMSNorm over each head of q and k, and its backward: a group of lanes a head, the head in their
// registers.
#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
// Pieces of V elements a lane: all of kMaxFusedHeadDim by 32 lanes.
template <int V>
constexpr int kPieces = V >= 8 ? 1 : 8 / V;

// Lanes of a group that holds a head of `pieces` pieces: a power of 2.
__host__ __device__ inline int GroupLanes(int64_t pieces) {
  int lanes = 1;
  while (lanes < pieces && lanes < kLanes) lanes *= 2;
  return lanes;
}

// A lane's part of a head, pieces group_lane, group_lane + group, ….
template <int V>
struct HeadPart {
  static constexpr int K = kPieces<V>;

  template <typename T>
  __device__ static void Read(const T* head, int64_t first, int64_t step, int64_t d,
                              float (&v)[K][V]) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) v[k][i] = 0;
      if (first + k * step < d) Load(head + first + k * step, v[k]);
    }
  }
  // Weights may lie at any address.
  __device__ static void ReadWeight(const float* w, int64_t first, int64_t step, int64_t d,
                                    float (&v)[K][V]) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) v[k][i] = first + k * step < d ? w[first + k * step + i] : 0;
    }
  }
  template <typename T>
  __device__ static void Write(T* head, int64_t first, int64_t step, int64_t d,
                               const float (&v)[K][V]) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (first + k * step < d) Store(head + first + k * step, v[k]);
    }
  }
  __device__ static float Dot(const float (&a)[K][V], const float (&b)[K][V]) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) sum += a[k][i] * b[k][i];
    }
    return sum;
  }
};

// A warp a token, its groups of lanes taking the heads in turn, then the copied rest.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads) QkNormKernel(QkNormShape s, const T* x, T* y) {
  using Part = HeadPart<V>;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (token >= s.tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int group = GroupLanes(s.head_dim / V);
  const int64_t first = lane % group * V, step = group * V, d = s.head_dim;
  const int64_t heads = s.heads + s.kv_heads;
  const T* in = x + token * s.stride;
  T* out = y + token * s.stride;
  for (int64_t begin = 0; begin < heads; begin += kLanes / group) {
    const int64_t head = begin + lane / group;
    const int64_t read = head < heads ? head : heads - 1;  // all lanes take part in the sums
    float v[Part::K][V], w[Part::K][V];
    Part::Read(in + read * d, first, step, d, v);
    Part::ReadWeight(read < s.heads ? s.q_weight : s.k_weight, first, step, d, w);
    const float squares = LaneSum(Part::Dot(v, v), group);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + s.eps);
#pragma unroll
    for (int k = 0; k < Part::K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) v[k][i] *= scale * w[k][i];
    }
    if (head < heads) Part::Write(out + head * d, first, step, d, v);
  }
  for (int64_t i = heads * d + lane * V; i < s.stride; i += kLanes * V) {
    float v[V];
    Load(in + i, v);
    Store(out + i, v);
  }
}

// A block takes kNormBlockRows tokens. Each group of lanes sums q's and k's weight gradients of the
// heads it saw; the groups' sums meet in shared memory, [2, groups, head_dim].
template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    QkNormBackwardKernel(QkNormShape s, const T* x, T* dy, float* partials) {
  using Part = HeadPart<V>;
  extern __shared__ float of_group[];
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int group = GroupLanes(s.head_dim / V);
  const int groups = kThreads / group;
  const int64_t first = lane % group * V, step = group * V, d = s.head_dim;
  const int64_t heads = s.heads + s.kv_heads;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kNormBlockRows;
  const int64_t tokens = min(static_cast<int64_t>(kNormBlockRows), s.tokens - block);
  float dw[2][Part::K][V] = {};
  for (int64_t unit = threadIdx.x / group; unit - lane / group < tokens * heads; unit += groups) {
    const bool present = unit < tokens * heads;
    const int64_t read = present ? unit : tokens * heads - 1;
    const int64_t head = read % heads;
    const int64_t at = (block + read / heads) * s.stride + head * d;
    const bool is_q = head < s.heads;
    float v[Part::K][V], g[Part::K][V], w[Part::K][V];
    Part::Read(x + at, first, step, d, v);
    Part::Read(dy + at, first, step, d, g);
    Part::ReadWeight(is_q ? s.q_weight : s.k_weight, first, step, d, w);
    const float squares = LaneSum(Part::Dot(v, v), group);
    const float scale = 1.0f / sqrtf(squares / static_cast<float>(d) + s.eps);
#pragma unroll
    for (int k = 0; k < Part::K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        v[k][i] *= scale;
        const float through = present ? g[k][i] * v[k][i] : 0.0f;
        dw[0][k][i] += is_q ? through : 0.0f;
        dw[1][k][i] += is_q ? 0.0f : through;
        g[k][i] *= w[k][i];
      }
    }
    const float mean = LaneSum(Part::Dot(g, v), group) / static_cast<float>(d);
#pragma unroll
    for (int k = 0; k < Part::K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) g[k][i] = (g[k][i] - v[k][i] * mean) * scale;
    }
    if (present) Part::Write(dy + at, first, step, d, g);
  }
#pragma unroll
  for (int part = 0; part < 2; ++part) {
#pragma unroll
    for (int k = 0; k < Part::K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const int64_t column = first + k * step + i;
        if (column >= d) continue;
        of_group[(part * groups + threadIdx.x / group) * d + column] = dw[part][k][i];
      }
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < 2 * d; i += kThreads) {
    const float* of_part = of_group + i / d * groups * d + i % d;
    float sum = 0;
    for (int j = 0; j < groups; ++j) sum += of_part[j * d];
    partials[blockIdx.x * 2 * d + i] = sum;
  }
}

template <typename T, int V>
void LaunchBackward(cudaStream_t stream, const QkNormShape& s, const T* x, T* dy, float* partials) {
  // At most 16 KiB: a group of n lanes holds n · kPieces · V elements, at most 8 a lane.
  const int groups = kThreads / GroupLanes(s.head_dim / V);
  const auto shared = static_cast<size_t>(2 * groups * s.head_dim) * sizeof(float);
  QkNormBackwardKernel<T, V>
      <<<Blocks(s.tokens, kNormBlockRows), kThreads, shared, stream>>>(s, x, dy, partials);
}

// The rows of x and y can be read 16 bytes at a time.
template <typename T>
bool IsWide(const QkNormShape& s, const T* x, const T* y) {
  return s.head_dim % kWide<T> == 0 && s.stride % kWide<T> == 0 && Aligned(16, x, y);
}

}  // namespace

template <typename T>
void QkNorm(const Parallel& parallel, const QkNormShape& s, const T* x, T* y) {
  if (s.tokens == 0) return;
  const auto kernel = IsWide(s, x, y) ? &QkNormKernel<T, kWide<T>> : &QkNormKernel<T, 1>;
  kernel<<<Blocks(s.tokens, kWarps), kThreads, 0, Stream(parallel)>>>(s, x, y);
}

template <typename T>
void QkNormBackward(const Parallel& parallel, const QkNormShape& s, const T* x, T* dy, float* dwq,
                    float* dwk, float* partials) {
  cudaStream_t stream = Stream(parallel);
  if (s.tokens > 0) {
    const auto launch = IsWide<T>(s, x, dy) ? &LaunchBackward<T, kWide<T>> : &LaunchBackward<T, 1>;
    launch(stream, s, x, dy, partials);
  }
  if (dwq == nullptr) return;
  const int64_t d = s.head_dim;
  const int64_t blocks = NormPartials(s.tokens);
  SumColumns(stream, blocks, d, 2 * d, partials, dwq);
  SumColumns(stream, blocks, d, 2 * d, partials + d, dwk);
}

#define MINDFORGE_INSTANTIATE_QK_NORM(T)                                                          \
  template void QkNorm(const Parallel&, const QkNormShape&, const T*, T*);                        \
  template void QkNormBackward(const Parallel&, const QkNormShape&, const T*, T*, float*, float*, \
                               float*);
MINDFORGE_INSTANTIATE_QK_NORM(float)
MINDFORGE_INSTANTIATE_QK_NORM(Bf16)
MINDFORGE_INSTANTIATE_QK_NORM(Half)

}  // namespace mindforge::cuda
