// The router: scores and choices, a warp a token, and their backward.
#include <math_constants.h>

#include "worker/kernels/cuda/kernels.h"
#include "worker/kernels/cuda/reduce.cuh"

namespace mindforge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kTogether = 4;     // experts whose products are in flight at once
constexpr float kTiny = 1e-20f;  // the reference's guard of the weights' sum

// The softmax of a token's logits in place; lane l owns experts l, l + 32, ….
__device__ inline void Softmax(int64_t experts, int lane, float* s) {
  float top = -CUDART_INF_F;
  for (int64_t e = lane; e < experts; e += kLanes) top = fmaxf(top, s[e]);
  top = LaneMax(top);
  float sum = 0;
  for (int64_t e = lane; e < experts; e += kLanes) {
    s[e] = expf(s[e] - top);
    sum += s[e];
  }
  sum = LaneSum(sum);
  for (int64_t e = lane; e < experts; e += kLanes) s[e] /= sum;
  __syncwarp();
}

struct Candidate {
  float score;
  int32_t expert;  // INT32_MAX: none
};

// The lanes' candidate with the largest score, the lowest expert among equals.
__device__ inline Candidate BestOfLanes(Candidate best) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    const float score = __shfl_xor_sync(kAllLanes, best.score, offset);
    const int32_t expert = __shfl_xor_sync(kAllLanes, best.expert, offset);
    if (expert != INT32_MAX && (best.expert == INT32_MAX || score > best.score ||
                                (score == best.score && expert < best.expert))) {
      best = {score, expert};
    }
  }
  return best;
}

// The best expert that is not among the first `taken` choices.
__device__ inline Candidate Best(int64_t experts, int lane, const float* s, const int32_t* chosen,
                                 int64_t taken) {
  Candidate best{0, INT32_MAX};
  for (int64_t e = lane; e < experts; e += kLanes) {
    bool is_taken = false;
    for (int64_t j = 0; j < taken; ++j) is_taken |= chosen[j] == e;
    if (!is_taken && (best.expert == INT32_MAX || s[e] > best.score)) {
      best = {s[e], static_cast<int32_t>(e)};
    }
  }
  return BestOfLanes(best);
}

// s[0 … kTogether-1] = the logits of experts `first` on, in every lane.
template <typename T, int V>
__device__ inline void Logits(const RouterShape& r, int lane, int64_t first, const T* x,
                              const float* w, float (&s)[kTogether]) {
#pragma unroll
  for (int e = 0; e < kTogether; ++e) s[e] = 0;
#pragma unroll 4
  for (int64_t i = lane * V; i < r.hidden; i += kLanes * V) {
    float v[V];
    Load(x + i, v);
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      if (first + e >= r.experts) continue;
      float row[V];
      Load(w + (first + e) * r.hidden + i, row);
#pragma unroll
      for (int k = 0; k < V; ++k) s[e] += v[k] * row[k];
    }
  }
#pragma unroll
  for (int e = 0; e < kTogether; ++e) s[e] = LaneSum(s[e]);
}

// At most 32 experts: lane e holds expert e's score, then lane j the j-th choice.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    RouteFewKernel(RouterShape r, const T* x, const float* w, float* scores, int32_t* chosen,
                   float* weights) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (token >= r.tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int experts = static_cast<int>(r.experts);
  float score = -CUDART_INF_F;
  for (int first = 0; first < experts; first += kTogether) {
    float s[kTogether];
    Logits<T, V>(r, lane, first, x + token * r.hidden, w, s);
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      if (lane == first + e && lane < experts) score = s[e];
    }
  }
  score = expf(score - LaneMax(score));  // 0 where there is no expert
  score /= LaneSum(score);
  if (lane < experts) scores[token * experts + lane] = score;
  bool is_free = lane < experts;
  int32_t choice = 0;
  float weight = 0, total = 0;
  for (int j = 0; j < r.top_k; ++j) {
    const Candidate best = BestOfLanes({score, is_free ? lane : INT32_MAX});
    if (lane == best.expert) is_free = false;
    if (lane == j) choice = best.expert, weight = best.score;
    total += best.score;
  }
  if (lane >= r.top_k) return;
  chosen[token * r.top_k + lane] = choice;
  weights[token * r.top_k + lane] = weight / (r.normalize ? total + kTiny : 1.0f);
}

// Any number of experts, by way of memory.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads)
    RouteKernel(RouterShape r, const T* x, const float* w, float* scores, int32_t* chosen,
                float* weights) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (token >= r.tokens) return;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  float* s = scores + token * r.experts;
  for (int64_t first = 0; first < r.experts; first += kTogether) {
    float sum[kTogether];
    Logits<T, V>(r, lane, first, x + token * r.hidden, w, sum);
#pragma unroll
    for (int e = 0; e < kTogether; ++e) {
      if (lane == 0 && first + e < r.experts) s[first + e] = sum[e];
    }
  }
  __syncwarp();
  Softmax(r.experts, lane, s);
  int32_t* choice = chosen + token * r.top_k;
  float total = 0;
  for (int64_t j = 0; j < r.top_k; ++j) {
    const Candidate best = Best(r.experts, lane, s, choice, j);
    if (lane == 0) choice[j] = best.expert;
    __syncwarp();
    total += best.score;
  }
  const float divisor = r.normalize ? total + kTiny : 1.0f;
  for (int64_t j = lane; j < r.top_k; j += kLanes) {
    weights[token * r.top_k + j] = s[choice[j]] / divisor;
  }
}

// A thread a token: experts are few.
__global__ void __launch_bounds__(kThreads)
    RouteBackwardKernel(RouterShape r, RouterGradient g, float* d_logits) {
  const int64_t token = ThreadIndex();
  if (token >= r.tokens) return;
  const float* s = g.scores + token * r.experts;
  const int32_t* choice = g.chosen + token * r.top_k;
  const float* weight = g.weights + token * r.top_k;
  const int32_t* slot = g.slots + token * r.top_k;
  float* out = d_logits + token * r.experts;
  for (int64_t e = 0; e < r.experts; ++e) {
    out[e] = g.balance == nullptr ? 0.0f : g.balance[g.rows[token] * r.experts + e];
  }
  float through = 0;
  float divisor = 1;
  if (r.normalize) {
    divisor = kTiny;
    for (int64_t j = 0; j < r.top_k; ++j) {
      through += g.d_weights[slot[j]] * weight[j];
      divisor += s[choice[j]];
    }
  }
  for (int64_t j = 0; j < r.top_k; ++j) {
    out[choice[j]] += (g.d_weights[slot[j]] - through) / divisor;
  }
  float mean = 0;
  for (int64_t e = 0; e < r.experts; ++e) mean += s[e] * out[e];
  for (int64_t e = 0; e < r.experts; ++e) out[e] = s[e] * (out[e] - mean);
}

constexpr int kExperts = 4;  // of a block of the weight gradient
constexpr int kPieces = 4;   // of its columns
constexpr int kSumThreads = 1024;
constexpr int kTokenLanes = kSumThreads / kPieces;

// dw of kExperts experts and kPieces · V columns: lane r sums tokens r, r + kTokenLanes, …; then
// the lanes of a warp and then the warps are added in order.
template <typename T, int V>
__global__ void __launch_bounds__(kSumThreads)
    RouterWeightKernel(RouterShape r, const float* d_logits, const T* x, float* dw) {
  __shared__ float of_warp[kSumThreads / kLanes][kPieces][kExperts * V];
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kPieces + piece) * V;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kExperts;
  float sum[kExperts * V] = {};
  if (column < r.hidden) {
#pragma unroll 4
    for (int64_t token = threadIdx.x / kPieces; token < r.tokens; token += kTokenLanes) {
      float v[V];
      Load(x + token * r.hidden + column, v);
#pragma unroll
      for (int e = 0; e < kExperts; ++e) {
        const bool present = first + e < r.experts;
        const float d = present ? d_logits[token * r.experts + first + e] : 0.0f;
#pragma unroll
        for (int k = 0; k < V; ++k) sum[e * V + k] += v[k] * d;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kExperts * V; ++i) {
    for (int offset = kLanes / 2; offset >= kPieces; offset /= 2) {
      sum[i] += __shfl_xor_sync(kAllLanes, sum[i], offset);
    }
    if (threadIdx.x % kLanes < kPieces) of_warp[threadIdx.x / kLanes][piece][i] = sum[i];
  }
  __syncthreads();
  if (threadIdx.x >= kPieces * kExperts * V) return;
  const int i = static_cast<int>(threadIdx.x) / kPieces;
  const int64_t expert = first + i / V;
  if (expert >= r.experts || column >= r.hidden) return;
  float total = 0;
  for (int warp = 0; warp < kSumThreads / kLanes; ++warp) total += of_warp[warp][piece][i];
  dw[expert * r.hidden + column + i % V] = total;
}

}  // namespace

template <typename T>
void Route(const Parallel& parallel, const RouterShape& r, const T* x, const float* w,
           float* scores, int32_t* chosen, float* weights) {
  if (r.tokens == 0) return;
  const bool quads = r.hidden % 4 == 0 && Aligned(4 * sizeof(T), x) && Aligned(16, w);
  const auto kernel = r.experts > kLanes ? quads ? &RouteKernel<T, 4> : &RouteKernel<T, 1>
                      : quads ? &RouteFewKernel<T, 4>
                                         : &RouteFewKernel<T, 1>;
  kernel<<<Blocks(r.tokens, kWarps), kThreads, 0, Stream(parallel)>>>(r, x, w, scores, chosen,
                                                                      weights);
}

void RouteBackward(const Parallel& parallel, const RouterShape& r, const RouterGradient& g,
                   float* d_logits) {
  if (r.tokens == 0) return;
  RouteBackwardKernel<<<Blocks(r.tokens, kThreads), kThreads, 0, Stream(parallel)>>>(r, g,
                                                                                     d_logits);
}

template <typename T>
void RouterWeightGradient(const Parallel& parallel, const RouterShape& r, const float* d_logits,
                          const T* x, float* dw) {
  if (r.hidden * r.experts == 0) return;
  const bool quads = r.hidden % 4 == 0 && Aligned(4 * sizeof(T), x);
  const auto kernel = quads ? &RouterWeightKernel<T, 4> : &RouterWeightKernel<T, 1>;
  const int64_t columns = kPieces * (quads ? 4 : 1);
  kernel<<<dim3(Blocks(r.hidden, columns), Blocks(r.experts, kExperts)), kSumThreads, 0,
           Stream(parallel)>>>(r, d_logits, x, dw);
}

#define MINDFORGE_INSTANTIATE_ROUTE(T)                                                            \
  template void Route(const Parallel&, const RouterShape&, const T*, const float*, float*,        \
                      int32_t*, float*);                                                          \
  template void RouterWeightGradient(const Parallel&, const RouterShape&, const float*, const T*, \
                                     float*);
MINDFORGE_INSTANTIATE_ROUTE(float)
MINDFORGE_INSTANTIATE_ROUTE(Bf16)
MINDFORGE_INSTANTIATE_ROUTE(Half)

}  // namespace mindforge::cuda
