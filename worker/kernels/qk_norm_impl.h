// RMSNorm over each head of q and k, and its backward, for one instruction set; see train_kernels.h
// and simd.h.
#pragma once

#include "worker/kernels/rows_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

template <typename T>
MF_INLINE float HeadScale(const T* x, int64_t d, float eps) {
  F sum = F{};
  for (int64_t i = 0; i < d; i += W) {
    const F v = LoadUpTo(x + i, d - i);
    sum += v * v;
  }
  return 1.0f / __builtin_sqrtf(Sum(sum) / static_cast<float>(d) + eps);
}

template <typename T>
void QkNorm(const Parallel& parallel, const QkNormShape& s, const T* x, T* y) {
  const int64_t d = s.head_dim;
  ForRows(parallel, s.tokens, [&](int64_t token) {
    const T* in = x + token * s.stride;
    T* out = y + token * s.stride;
    for (int64_t head = 0; head < s.heads + s.kv_heads; ++head) {
      const float* w = head < s.heads ? s.q_weight : s.k_weight;
      const float scale = HeadScale(in + head * d, d, s.eps);
      for (int64_t i = 0; i < d; i += W) {
        const F v = LoadUpTo(in + head * d + i, d - i) * scale * LoadUpTo(w + i, d - i);
        StoreUpTo(out + head * d + i, v, d - i);
      }
    }
    const int64_t normed = (s.heads + s.kv_heads) * d;
    __builtin_memcpy(reinterpret_cast<char*>(out + normed), in + normed,
                     (s.stride - normed) * sizeof(T));
  });
}

template <typename T>
void QkNormBackward(const Parallel& parallel, const QkNormShape& s, const T* x, T* dy, float* dwq,
                    float* dwk, float* partials) {
  const int64_t d = s.head_dim;
  const int64_t blocks = NormPartials(s.tokens);
  parallel.For(blocks, [&](int64_t block) {
    float* partial = partials + block * 2 * d;  // of q, then of k
    __builtin_memset(partial, 0, 2 * d * sizeof(float));
    const int64_t end = Min(s.tokens, (block + 1) * kNormBlockRows);
    for (int64_t token = block * kNormBlockRows; token < end; ++token) {
      for (int64_t head = 0; head < s.heads + s.kv_heads; ++head) {
        const T* in = x + token * s.stride + head * d;
        T* gradient = dy + token * s.stride + head * d;
        const float* w = head < s.heads ? s.q_weight : s.k_weight;
        float* dw = head < s.heads ? partial : partial + d;
        const float scale = HeadScale(in, d, s.eps);
        F dot = F{};
        for (int64_t i = 0; i < d; i += W) {
          const F through = LoadUpTo(gradient + i, d - i) * LoadUpTo(in + i, d - i) * scale;
          dot += through * LoadUpTo(w + i, d - i);
          StoreUpTo(dw + i, LoadUpTo(dw + i, d - i) + through, d - i);
        }
        const float mean = Sum(dot) / static_cast<float>(d);
        for (int64_t i = 0; i < d; i += W) {
          const F normal = LoadUpTo(in + i, d - i) * scale;
          const F v = LoadUpTo(gradient + i, d - i) * LoadUpTo(w + i, d - i) - normal * mean;
          StoreUpTo(gradient + i, v * scale, d - i);
        }
      }
    }
  });
  if (dwq == nullptr) return;
  for (int64_t i = 0; i < d; ++i) {
    float q = 0;
    float k = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      q += partials[block * 2 * d + i];
      k += partials[block * 2 * d + d + i];
    }
    dwq[i] = q;
    dwk[i] = k;
  }
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
