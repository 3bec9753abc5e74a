// Row-wise kernels of training for one instruction set; see train_kernels.h for what each does and
// simd.h for how such a file is included.
#pragma once

#include "worker/kernels/simd.h"

namespace mindforge {
namespace MINDFORGE_ISA {

// Rows a task takes: enough work to pay for its dispatch, few enough to balance.
constexpr int64_t kRowsPerTask = kNormBlockRows;

template <typename Function>
void ForRows(const Parallel& parallel, int64_t n, Function&& f) {
  parallel.For((n + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task) {
    const int64_t end = Min(n, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) f(row);
  });
}

constexpr int64_t kElementsPerTask = 32768;

template <typename Function>
void ForElements(const Parallel& parallel, int64_t size, Function&& f) {
  parallel.For((size + kElementsPerTask - 1) / kElementsPerTask, [&](int64_t task) {
    f(task * kElementsPerTask, Min(size, (task + 1) * kElementsPerTask));
  });
}

inline void Embed(const Parallel& parallel, int64_t n, int64_t c, const int64_t* ids,
                  const float* table, float* h) {
  ForRows(parallel, n, [&](int64_t row) {
    __builtin_memcpy(h + row * c, table + ids[row] * c, c * sizeof(float));
  });
}

// Columns are the tasks: every row may hit the same id, and rows must add up in order.
inline void EmbedBackward(const Parallel& parallel, int64_t n, int64_t c, const int64_t* ids,
                          const float* dh, float* table_gradient) {
  constexpr int64_t kColumns = 64;
  parallel.For((c + kColumns - 1) / kColumns, [&](int64_t task) {
    const int64_t begin = task * kColumns;
    const int64_t end = Min(c, begin + kColumns);
    for (int64_t row = 0; row < n; ++row) {
      const float* source = dh + row * c;
      float* target = table_gradient + ids[row] * c;
      int64_t i = begin;
      for (; i + W <= end; i += W) Store(target + i, Load(target + i) + Load(source + i));
      for (; i < end; ++i) target[i] += source[i];
    }
  });
}

template <typename T>
void AddNorm(const Parallel& parallel, int64_t n, int64_t c, const float* residual, const T* delta,
             const float* w, float eps, float* h, float* rstd, T* y) {
  ForRows(parallel, n, [&](int64_t row) {
    const float* x = residual + row * c;
    F sum = F{};
    if (delta != nullptr) {
      float* out = h + row * c;
      const T* add = delta + row * c;
      for (int64_t i = 0; i < c; i += W) {
        const F v = LoadUpTo(x + i, c - i) + LoadUpTo(add + i, c - i);
        StoreUpTo(out + i, v, c - i);
        sum += v * v;
      }
      x = out;
    } else {
      for (int64_t i = 0; i < c; i += W) {
        const F v = LoadUpTo(x + i, c - i);
        sum += v * v;
      }
      if (h != nullptr && h != residual) __builtin_memcpy(h + row * c, x, c * sizeof(float));
    }
    const float scale = 1.0f / __builtin_sqrtf(Sum(sum) / static_cast<float>(c) + eps);
    rstd[row] = scale;
    T* out = y + row * c;
    for (int64_t i = 0; i < c; i += W) {
      StoreUpTo(out + i, LoadUpTo(x + i, c - i) * scale * LoadUpTo(w + i, c - i), c - i);
    }
  });
}

// One row of the backward of y = x̂ · w with x̂ = h · rstd:
//   dh += rstd · (dy·w - x̂ · mean(dy·w · x̂)), dw += dy · x̂.
template <typename T>
MF_INLINE void NormBackwardRow(int64_t c, const T* dy, const float* h, float rstd, const float* w,
                               bool accumulate, float* dh, T* dh_cast, float* dw) {
  F dot = F{};
  for (int64_t i = 0; i < c; i += W) {
    const F normal = LoadUpTo(h + i, c - i) * rstd;
    const F gradient = LoadUpTo(dy + i, c - i);
    const F through = gradient * normal;
    dot += through * LoadUpTo(w + i, c - i);
    if (dw != nullptr) StoreUpTo(dw + i, LoadUpTo(dw + i, c - i) + through, c - i);
  }
  const float mean = Sum(dot) / static_cast<float>(c);
  for (int64_t i = 0; i < c; i += W) {
    const F normal = LoadUpTo(h + i, c - i) * rstd;
    F v = (LoadUpTo(dy + i, c - i) * LoadUpTo(w + i, c - i) - normal * mean) * rstd;
    if (accumulate) v += LoadUpTo(dh + i, c - i);
    StoreUpTo(dh + i, v, c - i);
    if (dh_cast != nullptr) StoreUpTo(dh_cast + i, v, c - i);
  }
}

template <typename T>
void NormBackward(const Parallel& parallel, int64_t n, int64_t c, const T* dy, const float* h,
                  const float* rstd, const float* w, bool accumulate, float* dh, T* dh_cast,
                  float* dw, float* partials) {
  const int64_t blocks = NormPartials(n);
  parallel.For(blocks, [&](int64_t block) {
    float* partial = dw == nullptr ? nullptr : partials + block * c;
    if (partial != nullptr) __builtin_memset(partial, 0, c * sizeof(float));
    const int64_t end = Min(n, (block + 1) * kNormBlockRows);
    for (int64_t row = block * kNormBlockRows; row < end; ++row) {
      const int64_t at = row * c;
      NormBackwardRow(c, dy + at, h + at, rstd[row], w, accumulate, dh + at,
                      dh_cast == nullptr ? nullptr : dh_cast + at, partial);
    }
  });
  for (int64_t i = 0; i < c && dw != nullptr; i += W) {
    F sum = F{};
    for (int64_t block = 0; block < blocks; ++block) {
      sum += LoadUpTo(partials + block * c + i, c - i);
    }
    StoreUpTo(dw + i, sum, c - i);
  }
}

template <typename T>
void Rope(const Parallel& parallel, int64_t n, const int32_t* positions, int64_t heads,
          int64_t head_dim, int64_t stride, const float* cos, const float* sin, float sign, T* x) {
  const int64_t half = head_dim / 2;
  ForRows(parallel, n, [&](int64_t row) {
    const float* c = cos + positions[row] * half;
    const float* s = sin + positions[row] * half;
    for (int64_t head = 0; head < heads; ++head) {
      T* low = x + row * stride + head * head_dim;
      T* high = low + half;
      for (int64_t i = 0; i < half; i += W) {
        const F a = LoadUpTo(low + i, half - i);
        const F b = LoadUpTo(high + i, half - i);
        const F cosine = LoadUpTo(c + i, half - i);
        const F sine = LoadUpTo(s + i, half - i) * sign;
        StoreUpTo(low + i, a * cosine - b * sine, half - i);
        StoreUpTo(high + i, b * cosine + a * sine, half - i);
      }
    }
  });
}

template <typename T>
void SwiGlu(const Parallel& parallel, int64_t n, int64_t c, const float* row_scale,
            const T* gate_up, T* a) {
  ForRows(parallel, n, [&](int64_t row) {
    const T* gate = gate_up + row * 2 * c;
    const T* up = gate + c;
    T* out = a + row * c;
    const float scale = row_scale == nullptr ? 1.0f : row_scale[row];
    for (int64_t i = 0; i < c; i += W) {
      const F g = LoadUpTo(gate + i, c - i);
      StoreUpTo(out + i, g / (1.0f + Exp(-g)) * LoadUpTo(up + i, c - i) * scale, c - i);
    }
  });
}

template <typename T>
void SwiGluBackward(const Parallel& parallel, int64_t n, int64_t c, const float* row_scale,
                    const T* da, T* gate_up, T* a, float* d_row_scale) {
  ForRows(parallel, n, [&](int64_t row) {
    T* gate = gate_up + row * 2 * c;
    T* up = gate + c;
    const float scale = row_scale == nullptr ? 1.0f : row_scale[row];
    F dot = F{};
    for (int64_t i = 0; i < c; i += W) {
      const F g = LoadUpTo(gate + i, c - i);
      const F u = LoadUpTo(up + i, c - i);
      const F d = LoadUpTo(da + row * c + i, c - i);
      const F sigmoid = 1.0f / (1.0f + Exp(-g));
      const F silu = g * sigmoid;
      const F product = silu * u;
      dot += d * product;
      const F scaled = d * scale;
      StoreUpTo(gate + i, scaled * u * (sigmoid + silu * (1.0f - sigmoid)), c - i);
      StoreUpTo(up + i, scaled * silu, c - i);
      StoreUpTo(a + row * c + i, product * scale, c - i);
    }
    if (d_row_scale != nullptr) d_row_scale[row] = Sum(dot);
  });
}

// One row: maximum, sum of exponentials, then the gradient over the logits, in cache.
template <typename T>
MF_INLINE float CrossEntropyRow(int64_t c, int64_t target, float scale, T* logits) {
  const float target_logit = ToFloat(logits[target]);
  F top = Set(target_logit);
  int64_t i = 0;
  for (; i + W <= c; i += W) top = MaxOf(top, Load(logits + i));
  float maximum = MaxOf(top);
  for (; i < c; ++i) maximum = ToFloat(logits[i]) > maximum ? ToFloat(logits[i]) : maximum;
  const float below = -__builtin_inff();
  F sums = F{};
  for (i = 0; i + W <= c; i += W) sums += Exp(Load(logits + i) - maximum);
  if (i < c) {
    const F v = LoadPart(logits + i, c - i);
    sums += Exp((Iota() < static_cast<int32_t>(c - i) ? v : Set(below)) - maximum);
  }
  const float sum = Sum(sums);
  const float factor = scale / sum;
  for (i = 0; i < c; i += W) {
    const F v = LoadUpTo(logits + i, c - i);
    F gradient = Exp(v - maximum) * factor;
    if (target >= i && target < i + W) {
      gradient = Iota() == static_cast<int32_t>(target - i) ? gradient - scale : gradient;
    }
    StoreUpTo(logits + i, gradient, c - i);
  }
  return __builtin_logf(sum) + maximum - target_logit;
}

template <typename T>
void CrossEntropy(const Parallel& parallel, int64_t n, int64_t c, const int64_t* targets,
                  const uint8_t* mask, float scale, T* logits, float* row_loss) {
  ForRows(parallel, n, [&](int64_t row) {
    if (mask != nullptr && mask[row] == 0) {
      row_loss[row] = 0;
      __builtin_memset(reinterpret_cast<char*>(logits + row * c), 0, c * sizeof(T));
    } else {
      row_loss[row] = CrossEntropyRow(c, targets[row], scale, logits + row * c);
    }
  });
}

template <typename From, typename To>
void Convert(const Parallel& parallel, int64_t size, const From* x, To* y) {
  ForElements(parallel, size, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += W) {
      StoreUpTo(y + i, LoadUpTo(x + i, end - i), end - i);
    }
  });
}

}  // namespace MINDFORGE_ISA
}  // namespace mindforge
