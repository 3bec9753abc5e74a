// The bodies of the CPU decoding kernels, compiled once per instruction set. The including file
// first defines, in an unnamed namespace, `V` (16 floats), `Pairs` (16 pairs of bfloat16) and the
// register tile kTileRows x kTileVectors. Everything here has internal linkage and calls no inline
// function of a library, so that no AVX code can leak into a caller's copy.
#pragma once

#include <cstdint>

#include "worker/kernels/infer_kernels.h"

namespace mindforge {
namespace {

inline uint16_t ToBf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// e^x with relative error below 2 ulp; 0 below -87.3. The same operations on every instruction set.
inline V Exp(V x) {
  const V clamped = V::Min(V::Max(x, V::Set(-87.33654f)), V::Set(88.3762626647949f));
  // Adding 1.5·2^23 rounds to an integer in the low bits of the mantissa.
  const V magic = V::Set(12582912.0f);
  const V rounded = V::Fma(clamped, V::Set(1.44269504088896341f), magic);
  const V n = rounded - magic;
  V r = V::Fma(n, V::Set(-0.693359375f), clamped);
  r = V::Fma(n, V::Set(2.12194440e-4f), r);
  V p = V::Set(1.9875691500e-4f);
  p = V::Fma(p, r, V::Set(1.3981999507e-3f));
  p = V::Fma(p, r, V::Set(8.3334519073e-3f));
  p = V::Fma(p, r, V::Set(4.1665795894e-2f));
  p = V::Fma(p, r, V::Set(1.6666665459e-1f));
  p = V::Fma(p, r, V::Set(5.0000001201e-1f));
  p = V::Fma(p, r * r, r + V::Set(1.0f));
  return V::ZeroBelow(V::ScaleByPower(p, rounded), x, V::Set(-87.33654f));
}

inline V Silu(V x) { return x / (V::Set(1.0f) + Exp(V::Zero() - x)); }

struct Float32 {
  using Element = float;
  static constexpr int64_t kStep = 1;  // k per step of the product
  using Weights = V;
  static Weights Load(const float* p) { return V::Load(p); }
  using Activation = V;
  static Activation Broadcast(const float* x) { return V::Set(*x); }
  static V MultiplyAdd(V acc, Activation x, Weights w) { return V::Fma(x, w, acc); }
  static V LoadCache(const float* p) { return V::Load(p); }
  static void Store(float* p, V v) { v.Store(p); }
  static void StoreN(float* p, V v, int64_t n) { v.StoreN(p, n); }
  static void StoreOne(float* p, float v) { *p = v; }
};

struct Bfloat16 {
  using Element = uint16_t;
  static constexpr int64_t kStep = 2;
  using Weights = Pairs;
  static Weights Load(const uint16_t* p) { return Pairs::Load(p); }
  using Activation = Pairs;
  static Activation Broadcast(const uint16_t* x) { return Pairs::Broadcast(x); }
  static V MultiplyAdd(V acc, Activation x, Weights w) { return Pairs::Dot(acc, x, w); }
  static V LoadCache(const uint16_t* p) { return V::LoadBf16(p); }
  static void Store(uint16_t* p, V v) { v.StoreBf16(p); }
  static void StoreN(uint16_t* p, V v, int64_t n) {
    uint16_t full[16];
    v.StoreBf16(full);
    for (int64_t i = 0; i < n; ++i) p[i] = full[i];
  }
  static void StoreOne(uint16_t* p, float v) { *p = ToBf16(v); }
};

// acc[Rows][Vectors] of one register tile: sums k in order, the same chain for any Rows and
// Vectors.
template <typename T, int Rows, int Vectors>
inline __attribute__((always_inline)) void Tile(const typename T::Element* x, int64_t x_stride,
                                                const typename T::Element* panel, int64_t k,
                                                V (&acc)[Rows][Vectors]) {
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < Vectors; ++v) acc[r][v] = V::Zero();
  }
  for (int64_t i = 0; i < k; i += T::kStep) {
    const typename T::Element* w = panel + i * kPanelColumns;
    typename T::Weights weights[Vectors];
    for (int v = 0; v < Vectors; ++v) weights[v] = T::Load(w + v * 16 * T::kStep);
    for (int r = 0; r < Rows; ++r) {
      const typename T::Activation a = T::Broadcast(x + r * x_stride + i);
      for (int v = 0; v < Vectors; ++v) acc[r][v] = T::MultiplyAdd(acc[r][v], a, weights[v]);
    }
  }
}

inline void StoreSum(float* y, V sum, int64_t valid, bool accumulate) {
  if (valid >= 16) {
    (accumulate ? V::Load(y) + sum : sum).Store(y);
  } else if (valid > 0) {
    (accumulate ? V::LoadN(y, valid) + sum : sum).StoreN(y, valid);
  }
}

template <typename T, int Rows>
void MatmulRows(const MatmulArgs& args, int64_t first_row) {
  using E = typename T::Element;
  constexpr int kVectors = Rows == 1 ? 4 : kTileVectors;
  const E* x = static_cast<const E*>(args.x) + first_row * args.x_stride;
  for (int part = 0; part < 4; part += kVectors) {
    V acc[Rows][kVectors];
    Tile<T, Rows, kVectors>(x, args.x_stride,
                            static_cast<const E*>(args.panel) + part * 16 * T::kStep, args.k, acc);
    for (int r = 0; r < Rows; ++r) {
      float* y = args.y + (first_row + r) * args.y_stride + part * 16;
      for (int v = 0; v < kVectors; ++v) {
        StoreSum(y + v * 16, acc[r][v], args.columns - (part + v) * 16, args.accumulate);
      }
    }
  }
}

// Calls f.template operator()<n>(first) over blocks of at most kTileRows rows.
template <typename F>
inline void ForRowBlocks(int64_t rows, F f) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) f.template operator()<kTileRows>(row);
  switch (rows - row) {
    case 5:
      f.template operator()<5>(row);
      break;
    case 4:
      f.template operator()<4>(row);
      break;
    case 3:
      f.template operator()<3>(row);
      break;
    case 2:
      f.template operator()<2>(row);
      break;
    case 1:
      f.template operator()<1>(row);
      break;
    default:
      break;
  }
}

template <typename T>
void Matmul(const MatmulArgs& args) {
  ForRowBlocks(args.rows, [&]<int Rows>(int64_t row) { MatmulRows<T, Rows>(args, row); });
}

template <typename T>
void Swiglu(const SwigluArgs& args) {
  using E = typename T::Element;
  ForRowBlocks(args.rows, [&]<int Rows>(int64_t row) {
    float gate[Rows * kPanelColumns];
    float up[Rows * kPanelColumns];
    MatmulArgs product{.x = static_cast<const E*>(args.x) + row * args.x_stride,
                       .x_stride = args.x_stride,
                       .rows = Rows,
                       .panel = args.gate,
                       .k = args.k,
                       .y = gate,
                       .y_stride = kPanelColumns};
    MatmulRows<T, Rows>(product, 0);
    product.panel = args.up;
    product.y = up;
    MatmulRows<T, Rows>(product, 0);
    for (int r = 0; r < Rows; ++r) {
      E* y = static_cast<E*>(args.y) + (row + r) * args.y_stride;
      for (int64_t c = 0; c < args.columns; c += 16) {
        const int64_t at = r * kPanelColumns + c;
        const V v = Silu(V::Load(gate + at)) * V::Load(up + at);
        const int64_t left = args.columns - c;
        if (left >= 16) {
          T::Store(y + c, v);
        } else {
          T::StoreN(y + c, v, left);
        }
      }
    }
  });
}

inline float InverseRms(const float* x, int64_t n, float eps) {
  V sum = V::Zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const V v = V::Load(x + i);
    sum = V::Fma(v, v, sum);
  }
  if (i < n) {
    const V v = V::LoadN(x + i, n - i);
    sum = V::Fma(v, v, sum);
  }
  return 1.0f / __builtin_sqrtf(sum.Sum() / static_cast<float>(n) + eps);
}

template <typename T>
void RmsNorm(const float* x, const float* weight, int64_t n, float eps, void* out) {
  auto* y = static_cast<typename T::Element*>(out);
  const V scale = V::Set(InverseRms(x, n, eps));
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) T::Store(y + i, V::Load(x + i) * scale * V::Load(weight + i));
  if (i < n) {
    T::StoreN(y + i, V::LoadN(x + i, n - i) * scale * V::LoadN(weight + i, n - i), n - i);
  }
}

// One head in place: optional RMSNorm, then the turn, then `scale`.
inline void TurnHead(const PlaceArgs& args, float* head, const float* norm, float scale) {
  const int64_t half = args.head_dim / 2;
  if (norm != nullptr) {
    const float inverse = InverseRms(head, args.head_dim, args.eps);
    for (int64_t i = 0; i < args.head_dim; ++i) head[i] = head[i] * inverse * norm[i];
  }
  const V factor = V::Set(scale);
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    const V low = V::LoadN(head + i, n);
    const V high = V::LoadN(head + half + i, n);
    const V cos = V::LoadN(args.cos + i, n);
    const V sin = V::LoadN(args.sin + i, n);
    const V turned_low = low * cos - high * sin;
    const V turned_high = high * cos + low * sin;
    (turned_low * factor).StoreN(head + i, n);
    (turned_high * factor).StoreN(head + half + i, n);
  }
}

template <typename T>
void Place(const PlaceArgs& args) {
  using E = typename T::Element;
  for (int64_t h = 0; h < args.heads; ++h) {
    TurnHead(args, args.query + h * args.head_dim, args.query_norm, args.query_scale);
  }
  for (int64_t h = 0; h < args.kv_heads; ++h) {
    float* key = args.key + h * args.head_dim;
    const float* value = args.value + h * args.head_dim;
    TurnHead(args, key, args.key_norm, 1.0f);
    const HeadCache& cache = args.caches[h];
    E* keys = static_cast<E*>(cache.keys) + args.position / kKeyLanes * kKeyLanes * args.head_dim +
              args.position % kKeyLanes;
    E* values = static_cast<E*>(cache.values) + args.position * cache.value_stride;
    for (int64_t i = 0; i < args.head_dim; ++i) {
      T::StoreOne(keys + i * kKeyLanes, key[i]);
      T::StoreOne(values + i, value[i]);
    }
  }
}

// scores[G][64] of one block of keys; lanes beyond the last key hold something finite.
template <typename T, int G>
inline void BlockScores(const AttendArgs& args, const typename T::Element* keys, int vectors,
                        int64_t first_head, float (&scores)[G][kKeyBlock]) {
  const float* q = args.query + first_head * args.head_dim;
  for (int v = 0; v < vectors; v += 2) {
    V acc[G][2];
    for (int g = 0; g < G; ++g) acc[g][0] = acc[g][1] = V::Zero();
    const typename T::Element* low = keys + v * kKeyLanes * args.head_dim;
    const typename T::Element* high = low + kKeyLanes * args.head_dim;
    for (int64_t d = 0; d < args.head_dim; ++d) {
      const V k0 = T::LoadCache(low + d * kKeyLanes);
      const V k1 = T::LoadCache(high + d * kKeyLanes);
      for (int g = 0; g < G; ++g) {
        const V a = V::Set(q[g * args.head_dim + d]);
        acc[g][0] = V::Fma(a, k0, acc[g][0]);
        acc[g][1] = V::Fma(a, k1, acc[g][1]);
      }
    }
    for (int g = 0; g < G; ++g) {
      acc[g][0].Store(scores[g] + v * 16);
      acc[g][1].Store(scores[g] + v * 16 + 16);
    }
  }
}

// Turns scores into weights exp(score - max), zero beyond `count`; returns their sum and the new
// maximum.
inline float BlockWeights(float* scores, int64_t count, float& maximum) {
  V best = V::Set(maximum);
  for (int64_t i = 0; i < count; i += 16) {
    best = V::Max(best, V::KeepFirst(V::Load(scores + i), count - i, V::Set(maximum)));
  }
  maximum = best.Largest();
  V sum = V::Zero();
  for (int64_t i = 0; i < count; i += 16) {
    const V weight = Exp(V::Load(scores + i) - V::Set(maximum));
    const V kept = V::KeepFirst(weight, count - i, V::Zero());
    kept.Store(scores + i);
    sum = sum + kept;
  }
  return sum.Sum();
}

inline void Softmax(float* x, int64_t n) {
  float maximum = -3.0e38f;
  const V sum = V::Set(BlockWeights(x, n, maximum));
  for (int64_t i = 0; i < n; i += 16) (V::Load(x + i) / sum).Store(x + i);
}

template <typename T, int G, int Vectors>
inline void AddValues(const typename T::Element* values, int64_t stride, int64_t count,
                      const float (&weights)[G][kKeyBlock], const float (&keep)[G], float* out,
                      int64_t out_stride) {
  V acc[G][Vectors];
  for (int g = 0; g < G; ++g) {
    for (int v = 0; v < Vectors; ++v) {
      acc[g][v] = V::Load(out + g * out_stride + v * 16) * V::Set(keep[g]);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int v = 0; v < Vectors; ++v) {
      const V value = T::LoadCache(values + i * stride + v * 16);
      for (int g = 0; g < G; ++g) {
        acc[g][v] = V::Fma(V::Set(weights[g][i]), value, acc[g][v]);
      }
    }
  }
  for (int g = 0; g < G; ++g) {
    for (int v = 0; v < Vectors; ++v) acc[g][v].Store(out + g * out_stride + v * 16);
  }
}

// One to four heads that share a kv head.
template <typename T, int G>
void AttendHeads(const AttendArgs& args, int64_t first_head) {
  using E = typename T::Element;
  alignas(64) float out[G * kMaxHeadDim];
  alignas(64) float scores[G][kKeyBlock];
  float maximum[G];
  float total[G];
  const int64_t padded = args.cache.value_stride;
  for (int64_t i = 0; i < G * padded; ++i) out[i] = 0;
  for (int g = 0; g < G; ++g) {
    maximum[g] = -3.0e38f;
    total[g] = 0;
  }
  for (int64_t start = 0; start < args.keys; start += kKeyBlock) {
    const int64_t count = args.keys - start < kKeyBlock ? args.keys - start : kKeyBlock;
    const E* keys = static_cast<const E*>(args.cache.keys) + start * args.head_dim;
    BlockScores<T, G>(args, keys, static_cast<int>((count + 31) / 32 * 2), first_head, scores);
    float keep[G];
    for (int g = 0; g < G; ++g) {
      const float before = maximum[g];
      const float sum = BlockWeights(scores[g], count, maximum[g]);
      keep[g] = Exp(V::Set(before - maximum[g])).First();
      total[g] = total[g] * keep[g] + sum;
    }
    const E* values = static_cast<const E*>(args.cache.values) + start * padded;
    int64_t d = 0;
    for (; d + 32 <= padded; d += 32) {
      AddValues<T, G, 2>(values + d, padded, count, scores, keep, out + d, padded);
    }
    if (d < padded) AddValues<T, G, 1>(values + d, padded, count, scores, keep, out + d, padded);
  }
  for (int g = 0; g < G; ++g) {
    E* to = static_cast<E*>(args.out) + (first_head + g) * args.head_dim;
    const V inverse = V::Set(1.0f / total[g]);
    for (int64_t d = 0; d < args.head_dim; d += 16) {
      const V v = V::Load(out + g * padded + d) * inverse;
      const int64_t left = args.head_dim - d;
      if (left >= 16) {
        T::Store(to + d, v);
      } else {
        T::StoreN(to + d, v, left);
      }
    }
  }
}

template <typename T>
void Attend(const AttendArgs& args) {
  int64_t head = 0;
  for (; head + 4 <= args.group; head += 4) AttendHeads<T, 4>(args, head);
  if (head + 2 <= args.group) {
    AttendHeads<T, 2>(args, head);
    head += 2;
  }
  if (head < args.group) AttendHeads<T, 1>(args, head);
}

}  // namespace
}  // namespace mindforge
