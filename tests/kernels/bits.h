// Fixed inputs and hashes for tests that say "these bits do not move".
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "worker/kernels/philox.h"

namespace mindforge {

// FNV-1a over bytes, in the order in which they are added.
class BitHash {
 public:
  template <typename E>
  void Add(const std::vector<E>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(E); ++i) {
      value_ = (value_ ^ bytes[i]) * 0x100000001b3;
    }
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325;
};

// Uniform in ±scale, the same everywhere.
inline std::vector<float> FixedFloats(int64_t size, uint64_t seed, float scale = 1) {
  std::vector<float> out(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    const auto bits = Philox(seed, 0, static_cast<uint64_t>(i / 4));
    out[static_cast<size_t>(i)] = (2 * UniformFloat(bits[static_cast<size_t>(i % 4)]) - 1) * scale;
  }
  return out;
}

// The same as bfloat16's bits, rounded to nearest even.
inline std::vector<uint16_t> FixedBf16Bits(int64_t size, uint64_t seed, float scale = 1) {
  std::vector<uint16_t> out;
  for (const float value : FixedFloats(size, seed, scale)) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    out.push_back(static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16));
  }
  return out;
}

}  // namespace mindforge
