// Mixture-of-experts kernels for one instruction set: routing, moving rows between tokens and
// experts' slots, and their backward. See train_kernels.h for what each does and simd.h for how
// such a file is included.
#pragma once

#include "worker/kernels/dropout_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

constexpr float kTiny = 1e-20f;  // the reference's guard of the weights' sum

// The k largest of `scores`, the lowest index first among equals.
MF_INLINE void ChooseExperts(const RouterShape& r, const float* scores, int32_t* chosen) {
  for (int64_t j = 0; j < r.top_k; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < r.experts; ++e) {
      bool taken = false;
      for (int64_t earlier = 0; earlier < j; ++earlier) taken |= chosen[earlier] == e;
      if (!taken && (best < 0 || scores[e] > scores[best])) best = e;
    }
    chosen[j] = static_cast<int32_t>(best);
  }
}

MF_INLINE void Softmax(int64_t size, float* x) {
  float top = x[0];
  for (int64_t i = 1; i < size; ++i) top = x[i] > top ? x[i] : top;
  float sum = 0;
  for (int64_t i = 0; i < size; i += W) {
    StoreUpTo(x + i, Exp(LoadUpTo(x + i, size - i) - top), size - i);
  }
  for (int64_t i = 0; i < size; ++i) sum += x[i];
  for (int64_t i = 0; i < size; ++i) x[i] /= sum;
}

template <typename T>
void Route(const Parallel& parallel, const RouterShape& r, const T* x, const float* w,
           float* scores, int32_t* chosen, float* weights) {
  ForRows(parallel, r.tokens, [&](int64_t token) {
    const T* in = x + token * r.hidden;
    float* s = scores + token * r.experts;
    for (int64_t e = 0; e < r.experts; ++e) {
      const float* row = w + e * r.hidden;
      F sum = F{};
      for (int64_t i = 0; i < r.hidden; i += W) {
        sum += LoadUpTo(in + i, r.hidden - i) * LoadUpTo(row + i, r.hidden - i);
      }
      s[e] = Sum(sum);
    }
    Softmax(r.experts, s);
    int32_t* choice = chosen + token * r.top_k;
    ChooseExperts(r, s, choice);
    float total = 0;
    for (int64_t j = 0; j < r.top_k; ++j) total += s[choice[j]];
    const float divisor = r.normalize ? total + kTiny : 1.0f;
    for (int64_t j = 0; j < r.top_k; ++j) {
      weights[token * r.top_k + j] = s[choice[j]] / divisor;
    }
  });
}

template <typename T>
void GatherRows(const Parallel& parallel, const RowGather& g, const T* x, T* out) {
  ForRows(parallel, g.slots, [&](int64_t slot) {
    const int64_t token = g.tokens[slot];
    T* target = out + slot * g.columns;
    if (token < 0) {
      __builtin_memset(reinterpret_cast<char*>(target), 0, g.columns * sizeof(T));
      return;
    }
    const T* source = x + token * g.columns;
    if (g.dropout == nullptr) {
      __builtin_memcpy(reinterpret_cast<char*>(target), source, g.columns * sizeof(T));
      return;
    }
    ForDropoutRow(*g.dropout, g.experts[slot], g.places.rows[token], g.places.positions[token],
                  g.columns, [&](int64_t i, F keep) {
                    const int64_t left = g.columns - i;
                    StoreUpTo(target + i, LoadUpTo(source + i, left) * keep, left);
                  });
  });
}

// One token's sum with dropout: what the experts gave passes through their masks.
template <typename T>
MF_INLINE void CombineDropped(const RowCombine<T>& k, int64_t token, T* target) {
  alignas(64) float sum[kDropoutGroup];
  alignas(64) float keep[kDropoutGroup];
  for (int64_t begin = 0; begin < k.columns; begin += kDropoutGroup) {
    const int64_t size = Min(kDropoutGroup, k.columns - begin);
    for (int64_t i = 0; i < size; i += W) {
      Store(sum + i,
            k.base == nullptr ? F{} : LoadUpTo(k.base + token * k.columns + begin + i, size - i));
    }
    for (int64_t j = 0; j < k.top_k; ++j) {
      const int64_t at = token * k.top_k + j;
      DropoutGroup(*k.dropout, k.chosen[at], k.places.rows[token], k.places.positions[token],
                   begin / kDropoutGroup, keep);
      const T* source = k.x + k.slots[at] * k.columns + begin;
      for (int64_t i = 0; i < size; i += W) {
        Store(sum + i, Load(sum + i) + LoadUpTo(source + i, size - i) * Load(keep + i));
      }
    }
    for (int64_t i = 0; i < size; i += W) {
      StoreUpTo(target + begin + i, Load(sum + i), size - i);
    }
  }
}

template <typename T>
void CombineRows(const Parallel& parallel, const RowCombine<T>& k, T* out) {
  ForRows(parallel, k.tokens, [&](int64_t token) {
    T* target = out + token * k.columns;
    if (k.dropout != nullptr) {
      CombineDropped(k, token, target);
      return;
    }
    const T* base = k.base == nullptr ? nullptr : k.base + token * k.columns;
    for (int64_t i = 0; i < k.columns; i += W) {
      const int64_t left = k.columns - i;
      F sum = base == nullptr ? F{} : LoadUpTo(base + i, left);
      for (int64_t j = 0; j < k.top_k; ++j) {
        sum += LoadUpTo(k.x + k.slots[token * k.top_k + j] * k.columns + i, left);
      }
      for (int64_t e = 0; e < k.experts; ++e) {
        sum += LoadUpTo(k.router + e * k.columns + i, left) * k.d_logits[token * k.experts + e];
      }
      StoreUpTo(target + i, sum, left);
    }
  });
}

inline void RouteBackward(const Parallel& parallel, const RouterShape& r, const RouterGradient& g,
                          float* d_logits) {
  ForRows(parallel, r.tokens, [&](int64_t token) {
    const float* s = g.scores + token * r.experts;
    const int32_t* choice = g.chosen + token * r.top_k;
    const float* weight = g.weights + token * r.top_k;
    float* out = d_logits + token * r.experts;
    for (int64_t e = 0; e < r.experts; ++e) {
      out[e] = g.balance == nullptr ? 0.0f : g.balance[g.rows[token] * r.experts + e];
    }
    float through = 0;  // what all choices' weights share
    float divisor = 1;
    if (r.normalize) {
      divisor = kTiny;
      for (int64_t j = 0; j < r.top_k; ++j) {
        through += g.d_weights[g.slots[token * r.top_k + j]] * weight[j];
        divisor += s[choice[j]];
      }
    }
    for (int64_t j = 0; j < r.top_k; ++j) {
      out[choice[j]] += (g.d_weights[g.slots[token * r.top_k + j]] - through) / divisor;
    }
    float mean = 0;
    for (int64_t e = 0; e < r.experts; ++e) mean += s[e] * out[e];
    for (int64_t e = 0; e < r.experts; ++e) out[e] = s[e] * (out[e] - mean);
  });
}

// dw[e, i] = Σ_token d_logits[token, e] · x[token, i]: columns are the tasks, sums over blocks of
// tokens keep float32's precision.
template <typename T>
void RouterWeightGradient(const Parallel& parallel, const RouterShape& r, const float* d_logits,
                          const T* x, float* dw) {
  constexpr int64_t kBlock = 256;
  const int64_t chunks = (r.hidden + W - 1) / W;
  parallel.For(chunks, [&](int64_t chunk) {
    const int64_t i = chunk * W;
    const int64_t left = r.hidden - i;
    for (int64_t first = 0; first < r.experts; first += 4) {
      const int64_t count = Min(4, r.experts - first);
      F total[4] = {};
      for (int64_t begin = 0; begin < r.tokens; begin += kBlock) {
        F sum[4] = {};
        const int64_t end = Min(r.tokens, begin + kBlock);
        for (int64_t token = begin; token < end; ++token) {
          const F v = LoadUpTo(x + token * r.hidden + i, left);
          const float* d = d_logits + token * r.experts + first;
          for (int64_t e = 0; e < count; ++e) sum[e] += v * d[e];
        }
        for (int64_t e = 0; e < count; ++e) total[e] += sum[e];
      }
      for (int64_t e = 0; e < count; ++e) {
        StoreUpTo(dw + (first + e) * r.hidden + i, total[e], left);
      }
    }
  });
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
