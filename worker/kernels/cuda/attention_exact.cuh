// Attention and its backward in float32 without tensor cores, for float32 training and whatever the
// tensor-core kernels do not take: any head_dim up to kDim, any alignment. The same cuts as theirs:
// each CTA owns [kTile, head_dim] of one output and walks over tiles of the other side.
// 256 threads stand as 16 x 16; thread (y, x) has the rows y + 16 i of a tile, its columns x + 16 j
// of scores and 4x + 64 j of outputs.
#pragma once

#include "worker/kernels/cuda/attention_shape.cuh"

namespace mindforge::cuda {

inline constexpr int kExactThreads = 256;

template <int kDim, int kTile>
struct Exact {
  static constexpr int kM = kTile / 16;
  static constexpr int kStride = kDim + 4, kScoreStride = kTile + 4;
  static constexpr int kFloats = kTile * kStride, kScoreFloats = kTile * kScoreStride;
  static constexpr int kForwardBytes = 4 * (3 * kFloats + kScoreFloats);
  static constexpr int kBackwardBytes = 4 * (4 * kFloats + kScoreFloats + 2 * kTile);

  int y = threadIdx.x / 16, x = threadIdx.x % 16;

  // Rows begin … of a head as floats, zeros outside.
  template <typename T>
  __device__ void Load(const T* from, int64_t stride, int begin, int length, int head_dim,
                       float* tile) const {
    for (int i = threadIdx.x; i < kTile * kDim; i += kExactThreads) {
      const int row = i / kDim, column = i % kDim;
      tile[row * kStride + column] = begin + row < length && column < head_dim
                                         ? ToFloat(from[(begin + row) * stride + column])
                                         : 0.0f;
    }
  }

  // scores = a · bᵀ
  __device__ void Scores(const float* a, const float* b, float (&scores)[kM][kM]) const {
    for (int i = 0; i < kM; ++i) {
      for (int j = 0; j < kM; ++j) scores[i][j] = 0;
    }
#pragma unroll 4
    for (int d = 0; d < kDim; d += 4) {
      float4 left[kM], right[kM];
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        left[i] = *reinterpret_cast<const float4*>(a + (y + 16 * i) * kStride + d);
        right[i] = *reinterpret_cast<const float4*>(b + (x + 16 * i) * kStride + d);
      }
#pragma unroll
      for (int i = 0; i < kM; ++i) {
#pragma unroll
        for (int j = 0; j < kM; ++j) {
          float sum = scores[i][j];
          sum = fmaf(left[i].x, right[j].x, sum);
          sum = fmaf(left[i].y, right[j].y, sum);
          sum = fmaf(left[i].z, right[j].z, sum);
          scores[i][j] = fmaf(left[i].w, right[j].w, sum);
        }
      }
    }
  }

  // result += the scores that all threads wrote · b
  __device__ void Add(const float* scores, const float* b,
                      float (&result)[kM][kDim / 64][4]) const {
#pragma unroll 4
    for (int k = 0; k < kTile; ++k) {
      float left[kM];
#pragma unroll
      for (int i = 0; i < kM; ++i) left[i] = scores[(y + 16 * i) * kScoreStride + k];
#pragma unroll
      for (int j = 0; j < kDim / 64; ++j) {
        const float4 right = *reinterpret_cast<const float4*>(b + k * kStride + 4 * x + 64 * j);
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          result[i][j][0] = fmaf(left[i], right.x, result[i][j][0]);
          result[i][j][1] = fmaf(left[i], right.y, result[i][j][1]);
          result[i][j][2] = fmaf(left[i], right.z, result[i][j][2]);
          result[i][j][3] = fmaf(left[i], right.w, result[i][j][3]);
        }
      }
    }
  }

  __device__ void Write(const float (&scores)[kM][kM], float* to) const {
    for (int i = 0; i < kM; ++i) {
      for (int j = 0; j < kM; ++j) to[(y + 16 * i) * kScoreStride + x + 16 * j] = scores[i][j];
    }
  }

  template <typename T>
  __device__ void Store(const float (&result)[kM][kDim / 64][4], const float (&scale)[kM], T* to,
                        int64_t stride, int begin, int length, int head_dim) const {
    for (int i = 0; i < kM; ++i) {
      const int row = begin + y + 16 * i;
      for (int j = 0; j < kDim / 64; ++j) {
        for (int e = 0; e < 4; ++e) {
          const int column = 4 * x + 64 * j + e;
          if (row < length && column < head_dim) {
            cuda::Store(to + row * stride + column, {result[i][j][e] * scale[i]});
          }
        }
      }
    }
  }
};

// Over the 16 threads of one y.
template <typename Function>
__device__ __forceinline__ float Reduce(float value, Function&& f) {
  for (int step = 8; step > 0; step /= 2) value = f(value, __shfl_xor_sync(~0u, value, step));
  return value;
}
__device__ __forceinline__ float SumOfRow(float value) {
  return Reduce(value, [](float a, float b) { return a + b; });
}

__device__ __forceinline__ float Kept(const Attention& s, int head, int row, int query, int key) {
  if (!s.drops) return 1.0f;
  const float4 kept = DropoutMultipliers(s.dropout, head, row, query, key);
  const int word = key % 64 / 16;
  return word == 0 ? kept.x : word == 1 ? kept.y : word == 2 ? kept.z : kept.w;
}

// The tile of queries (or keys) that a CTA owns; a grid has tiles · batch · heads of them.
struct ExactPlace {
  int row, head, begin;
  Row tokens;
  __device__ ExactPlace(const Attention& s, int heads, int tile) {
    const int pairs = s.batch * heads;
    head = blockIdx.x % pairs % heads;
    row = blockIdx.x % pairs / heads;
    begin = static_cast<int>(blockIdx.x / pairs) * tile;
    tokens = s.At(row);
  }
  __device__ int FirstKey(const Attention& s, int query) const {
    return s.first_key == nullptr || query >= tokens.length ? 0 : s.first_key[tokens.start + query];
  }
};

template <typename T, int kDim, int kTile>
__global__ void __launch_bounds__(kExactThreads)
    ExactForwardKernel(const Attention s, const T* q, const T* k, const T* v, T* out,
                       float* log2_sum) {
  using E = Exact<kDim, kTile>;
  constexpr int kM = E::kM;
  extern __shared__ __align__(16) float floats[];
  float *queries = floats, *keys = queries + E::kFloats, *values = keys + E::kFloats,
        *probabilities = values + E::kFloats;
  const ExactPlace at(s, s.heads, kTile);
  const int length = at.tokens.length;
  if (at.begin >= length) return;
  const E e;
  const int64_t q_at = at.tokens.start * s.stride + at.head * s.head_dim;
  const int64_t kv_at = at.tokens.start * s.stride + at.head / s.Group() * s.head_dim;
  e.Load(q + q_at, s.stride, at.begin, length, s.head_dim, queries);
  float result[kM][kDim / 64][4] = {}, top[kM], sum[kM];
  int first[kM];
  for (int i = 0; i < kM; ++i) {
    top[i] = -INFINITY;
    sum[i] = 0;
    first[i] = at.FirstKey(s, at.begin + e.y + 16 * i);
  }
  const float factor = s.scale * kLog2E;
  for (int begin = at.FirstKey(s, at.begin) / kTile * kTile;
       begin < at.begin + kTile && begin < length; begin += kTile) {
    __syncthreads();
    e.Load(k + kv_at, s.stride, begin, length, s.head_dim, keys);
    e.Load(v + kv_at, s.stride, begin, length, s.head_dim, values);
    __syncthreads();
    float p[kM][kM];
    e.Scores(queries, keys, p);
#pragma unroll
    for (int i = 0; i < kM; ++i) {
      const int query = at.begin + e.y + 16 * i;
      float most = top[i];
#pragma unroll
      for (int j = 0; j < kM; ++j) {
        const int key = begin + e.x + 16 * j;
        const bool hidden = key > query || key < first[i] || key >= length ||
                            (s.key_mask != nullptr && s.key_mask[at.tokens.start + key] == 0);
        p[i][j] = hidden ? -INFINITY : p[i][j] * factor;
        most = fmaxf(most, p[i][j]);
      }
      most = Reduce(most, [](float a, float b) { return fmaxf(a, b); });
      const float base = most == -INFINITY ? 0.0f : most;
      const float shrink = exp2f(top[i] - base);
      top[i] = most;
      float total = 0;
#pragma unroll
      for (int j = 0; j < kM; ++j) {
        p[i][j] = exp2f(p[i][j] - base);
        total += p[i][j];
        p[i][j] *= Kept(s, at.head, at.row, query, begin + e.x + 16 * j);
      }
      sum[i] = sum[i] * shrink + SumOfRow(total);
#pragma unroll
      for (int j = 0; j < kDim / 64; ++j) {
        for (int c = 0; c < 4; ++c) result[i][j][c] *= shrink;
      }
    }
    e.Write(p, probabilities);
    __syncthreads();
    e.Add(probabilities, values, result);
  }
  for (int i = 0; i < kM; ++i) {
    const int query = at.begin + e.y + 16 * i;
    if (e.x == 0 && query < length) {
      log2_sum[at.head * s.tokens + at.tokens.start + query] =
          sum[i] > 0 ? top[i] + log2f(sum[i]) : kHidden;
    }
    sum[i] = sum[i] > 0 ? 1.0f / sum[i] : 0.0f;
  }
  e.Store(result, sum, out + at.tokens.start * s.out_stride + at.head * s.head_dim, s.out_stride,
          at.begin, length, s.head_dim);
}

template <typename T, int kDim, int kTile>
__global__ void __launch_bounds__(kExactThreads)
    ExactQueryGradientKernel(const Attention s, const T* q, const T* k, const T* v, const T* out,
                             const float* log2_sum, const T* d_out, T* dq, float* delta) {
  using E = Exact<kDim, kTile>;
  constexpr int kM = E::kM;
  extern __shared__ __align__(16) float floats[];
  float *queries = floats, *d_outs = queries + E::kFloats, *keys = d_outs + E::kFloats,
        *values = keys + E::kFloats, *gradients = values + E::kFloats;
  const ExactPlace at(s, s.heads, kTile);
  const int length = at.tokens.length;
  if (at.begin >= length) return;
  const E e;
  const int64_t q_at = at.tokens.start * s.stride + at.head * s.head_dim;
  const int64_t kv_at = at.tokens.start * s.stride + at.head / s.Group() * s.head_dim;
  const int64_t out_at = at.tokens.start * s.out_stride + at.head * s.head_dim;
  e.Load(q + q_at, s.stride, at.begin, length, s.head_dim, queries);
  e.Load(d_out + out_at, s.out_stride, at.begin, length, s.head_dim, d_outs);
  __syncthreads();
  float result[kM][kDim / 64][4] = {}, row_sum[kM], row_delta[kM], scale[kM];
  int first[kM];
  for (int i = 0; i < kM; ++i) {
    const int query = at.begin + e.y + 16 * i;
    float sum = 0;
    for (int d = e.x; d < s.head_dim && query < length; d += 16) {
      sum +=
          ToFloat(out[out_at + query * s.out_stride + d]) * d_outs[(e.y + 16 * i) * E::kStride + d];
    }
    row_delta[i] = SumOfRow(sum);
    const int64_t place = at.head * s.tokens + at.tokens.start + query;
    row_sum[i] = query < length ? log2_sum[place] : kHidden;
    if (e.x == 0 && query < length) delta[place] = row_delta[i];
    first[i] = at.FirstKey(s, query);
    scale[i] = s.scale;
  }
  const float factor = s.scale * kLog2E;
  for (int begin = at.FirstKey(s, at.begin) / kTile * kTile;
       begin < at.begin + kTile && begin < length; begin += kTile) {
    __syncthreads();
    e.Load(k + kv_at, s.stride, begin, length, s.head_dim, keys);
    e.Load(v + kv_at, s.stride, begin, length, s.head_dim, values);
    __syncthreads();
    float p[kM][kM], ds[kM][kM];
    e.Scores(queries, keys, p);
    e.Scores(d_outs, values, ds);
#pragma unroll
    for (int i = 0; i < kM; ++i) {
#pragma unroll
      for (int j = 0; j < kM; ++j) {
        const int query = at.begin + e.y + 16 * i, key = begin + e.x + 16 * j;
        const bool hidden = key > query || key < first[i];
        const float probability = hidden ? 0.0f : exp2f(p[i][j] * factor - row_sum[i]);
        ds[i][j] = probability * (ds[i][j] * Kept(s, at.head, at.row, query, key) - row_delta[i]);
      }
    }
    e.Write(ds, gradients);
    __syncthreads();
    e.Add(gradients, keys, result);
  }
  e.Store(result, scale, dq + q_at, s.stride, at.begin, length, s.head_dim);
}

template <typename T, int kDim, int kTile>
__global__ void __launch_bounds__(kExactThreads)
    ExactKeyGradientKernel(const Attention s, const T* q, const T* k, const T* v,
                           const float* log2_sum, const T* d_out, const float* delta, T* dk,
                           T* dv) {
  using E = Exact<kDim, kTile>;
  constexpr int kM = E::kM;
  extern __shared__ __align__(16) float floats[];
  float *keys = floats, *values = keys + E::kFloats, *queries = values + E::kFloats,
        *d_outs = queries + E::kFloats, *scores = d_outs + E::kFloats,
        *sums = scores + E::kScoreFloats, *deltas = sums + kTile;
  const ExactPlace at(s, s.kv_heads, kTile);
  const int length = at.tokens.length;
  if (at.begin >= length) return;
  const E e;
  const int64_t kv_at = at.tokens.start * s.stride + at.head * s.head_dim;
  e.Load(k + kv_at, s.stride, at.begin, length, s.head_dim, keys);
  e.Load(v + kv_at, s.stride, at.begin, length, s.head_dim, values);
  float dk_sum[kM][kDim / 64][4] = {}, dv_sum[kM][kDim / 64][4] = {}, scale[kM], one[kM];
  for (int i = 0; i < kM; ++i) {
    scale[i] = s.scale;
    one[i] = 1;
  }
  const float factor = s.scale * kLog2E;
  for (int head = at.head * s.Group(); head < (at.head + 1) * s.Group(); ++head) {
    const int64_t q_at = at.tokens.start * s.stride + head * s.head_dim;
    const int64_t out_at = at.tokens.start * s.out_stride + head * s.head_dim;
    for (int begin = at.begin; begin < length; begin += kTile) {
      // first_key does not decrease: no later query sees these keys either.
      if (at.FirstKey(s, begin) >= at.begin + kTile) break;
      __syncthreads();
      e.Load(q + q_at, s.stride, begin, length, s.head_dim, queries);
      e.Load(d_out + out_at, s.out_stride, begin, length, s.head_dim, d_outs);
      if (threadIdx.x < kTile) {
        const int query = begin + static_cast<int>(threadIdx.x);
        const int64_t place = head * s.tokens + at.tokens.start + query;
        sums[threadIdx.x] = query < length ? log2_sum[place] : kHidden;
        deltas[threadIdx.x] = query < length ? delta[place] : 0.0f;
      }
      __syncthreads();
      float p[kM][kM], ds[kM][kM];
      e.Scores(keys, queries, p);
      e.Scores(values, d_outs, ds);
#pragma unroll
      for (int j = 0; j < kM; ++j) {
        const int column = e.x + 16 * j, query = begin + column;
        const int first = at.FirstKey(s, query);
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          const int key = at.begin + e.y + 16 * i;
          const bool hidden = key > query || key < first;
          const float probability = hidden ? 0.0f : exp2f(p[i][j] * factor - sums[column]);
          const float kept = Kept(s, head, at.row, query, key);
          p[i][j] = probability * kept;
          ds[i][j] = probability * (ds[i][j] * kept - deltas[column]);
        }
      }
      e.Write(p, scores);
      __syncthreads();
      e.Add(scores, d_outs, dv_sum);
      __syncthreads();
      e.Write(ds, scores);
      __syncthreads();
      e.Add(scores, queries, dk_sum);
    }
  }
  e.Store(dk_sum, scale, dk + kv_at, s.stride, at.begin, length, s.head_dim);
  e.Store(dv_sum, one, dv + kv_at, s.stride, at.begin, length, s.head_dim);
}

}  // namespace mindforge::cuda
