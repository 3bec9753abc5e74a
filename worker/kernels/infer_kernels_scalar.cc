// Decoding kernels in plain C++: the yardstick of the tests, and what runs where there is no AVX2.
// A fused multiply-add is spelled out, so the bits are those of the vector files; without the
// instruction that is slow.
#include <cstdint>

#include "worker/kernels/infer_kernels_tables.h"

namespace mindforge {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileVectors = 1;

struct V {
  float v[16];

  template <typename F>
  static V Each(F f) {
    V r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
  }
  static V Zero() { return Set(0.0f); }
  static V Set(float x) {
    return Each([&](int) { return x; });
  }
  static V Load(const float* p) {
    return Each([&](int i) { return p[i]; });
  }
  static V LoadN(const float* p, int64_t n) {
    return Each([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static V LoadBf16(const uint16_t* p) {
    return Each([&](int i) { return Float(static_cast<uint32_t>(p[i]) << 16); });
  }
  void Store(float* p) const { StoreN(p, 16); }
  void StoreN(float* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
  }
  void StoreBf16(uint16_t* p) const {
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = Bits(v[i]);
      p[i] = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
  }
  static V Fma(V a, V b, V c) {
    return Each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  // As the vector instructions: b when the comparison is not true.
  static V Max(V a, V b) {
    return Each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static V Min(V a, V b) {
    return Each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend V operator+(V a, V b) {
    return Each([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend V operator-(V a, V b) {
    return Each([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend V operator*(V a, V b) {
    return Each([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend V operator/(V a, V b) {
    return Each([&](int i) { return a.v[i] / b.v[i]; });
  }
  static V KeepFirst(V a, int64_t n, V b) {
    return Each([&](int i) { return i < n ? a.v[i] : b.v[i]; });
  }
  static V ZeroBelow(V a, V x, V bound) {
    return Each([&](int i) { return x.v[i] < bound.v[i] ? 0.0f : a.v[i]; });
  }
  static V ScaleByPower(V p, V rounded) {
    return Each([&](int i) { return Float(Bits(p.v[i]) + (Bits(rounded.v[i]) << 23)); });
  }
  float Sum() const {
    V r = *this;
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) r.v[i] = r.v[i] + r.v[i + width];
    }
    return r.v[0];
  }
  float Largest() const {
    V r = *this;
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) r.v[i] = r.v[i] > r.v[i + width] ? r.v[i] : r.v[i + width];
    }
    return r.v[0];
  }
  float First() const { return v[0]; }

  static uint32_t Bits(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
  }
  static float Float(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
  }
};

struct Pairs {
  V even;
  V odd;

  static Pairs Load(const uint16_t* p) {
    return {V::Each([&](int i) { return V::Float(static_cast<uint32_t>(p[2 * i]) << 16); }),
            V::Each([&](int i) { return V::Float(static_cast<uint32_t>(p[2 * i + 1]) << 16); })};
  }
  static Pairs Broadcast(const uint16_t* p) {
    return {V::Set(V::Float(static_cast<uint32_t>(p[0]) << 16)),
            V::Set(V::Float(static_cast<uint32_t>(p[1]) << 16))};
  }
  static V Dot(V acc, Pairs a, Pairs b) {
    return V::Fma(a.odd, b.odd, V::Fma(a.even, b.even, acc));
  }
};

}  // namespace
}  // namespace mindforge

#include "worker/kernels/infer_kernels_table_impl.h"

namespace mindforge {

InferKernels ScalarInferKernels(InferDtype dtype) { return MakeTable(dtype, kNumericsBf16Fma); }

}  // namespace mindforge
