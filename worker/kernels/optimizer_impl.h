// Optimizer kernels for one instruction set; see train_kernels.h and simd.h.
#pragma once

#include "worker/kernels/rows_impl.h"

namespace mindforge {
namespace MINDFORGE_ISA {

inline void SumSquares(const Parallel& parallel, int64_t size, const float* x, double* sums) {
  parallel.For((size + kSquareBlock - 1) / kSquareBlock, [&](int64_t block) {
    constexpr int64_t kChunk = 512;  // float sums of chunks this short lose nothing that matters
    const int64_t end = Min(size, (block + 1) * kSquareBlock);
    double total = 0;
    for (int64_t begin = block * kSquareBlock; begin < end; begin += kChunk) {
      const int64_t stop = Min(end, begin + kChunk);
      F sum = F{};
      for (int64_t i = begin; i < stop; i += W) {
        const F v = LoadUpTo(x + i, stop - i);
        sum += v * v;
      }
      total += static_cast<double>(Sum(sum));
    }
    sums[block] = total;
  });
}

MF_INLINE F Sqrt(F v) {
#if MINDFORGE_SIMD_WIDTH == 16
  return _mm512_sqrt_ps(v);
#elif MINDFORGE_SIMD_WIDTH == 8
  return _mm256_sqrt_ps(v);
#else
  return _mm_sqrt_ps(v);
#endif
}

inline void AdamW(const Parallel& parallel, int64_t size, const AdamWScalars& scalars,
                  const float* gradient, float* parameters, float* m, float* v, Bf16* copy) {
  const AdamWScalars s = scalars;
  ForElements(parallel, size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += W) {
      const int64_t left = end - i;
      const F g = LoadUpTo(gradient + i, left) * s.gradient_scale;
      F first = LoadUpTo(m + i, left);
      first += (g - first) * s.one_minus_beta1;
      const F second = LoadUpTo(v + i, left) * s.beta2 + g * g * s.one_minus_beta2;
      const F denominator = Sqrt(second) * s.inverse_bias2 + s.epsilon;
      const F p = LoadUpTo(parameters + i, left) * s.decay - s.step_size * first / denominator;
      StoreUpTo(m + i, first, left);
      StoreUpTo(v + i, second, left);
      StoreUpTo(parameters + i, p, left);
      if (copy != nullptr) StoreUpTo(copy + i, p, left);
    }
  });
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
