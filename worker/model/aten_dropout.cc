#include "worker/model/aten_dropout.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <array>
#include <vector>

#include "worker/model/dropout_place.h"

namespace mindforge {
namespace {

constexpr int64_t kLow = 0xFFFFFFFF;
constexpr int64_t kGroup = 64;  // columns that share 16 counters
constexpr int64_t kLanes = 16;

// 32 bits in an int64 each; a product wraps around, and its halves are cut out of the 64 bits.
struct Halves {
  at::Tensor high, low;
};

Halves Multiply(const at::Tensor& x, int64_t by) {
  const at::Tensor product = x * by;
  return {at::bitwise_and(at::bitwise_right_shift(product, 32), kLow),
          at::bitwise_and(product, kLow)};
}

at::Tensor Mix(const at::Tensor& x, const at::Tensor& y, uint32_t key) {
  return at::bitwise_xor(at::bitwise_xor(x, y), static_cast<int64_t>(key));
}

// philox.h's rounds on counters that broadcast against each other.
std::array<at::Tensor, 4> PhiloxWords(uint64_t key, std::array<at::Tensor, 4> c) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Halves a = Multiply(c[0], 0xD2511F53);
    const Halves b = Multiply(c[2], 0xCD9E8D57);
    c = {Mix(b.high, c[1], k0), b.low, Mix(a.high, c[3], k1), a.low};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

}  // namespace

at::Tensor DropoutMask(const DropoutRows& rows, double probability) {
  const int64_t n = rows.rows.size(0);
  const int64_t groups = (rows.columns + kGroup - 1) / kGroup;
  const auto options = rows.rows.options();
  const at::Tensor stream = rows.streams.defined() ? rows.streams.unsqueeze(1) + rows.stream
                                                   : at::full({1, 1}, rows.stream, options);
  const auto words = PhiloxWords(
      rows.key, {rows.positions.unsqueeze(1), rows.rows.unsqueeze(1),
                 at::arange(groups * kLanes, options).unsqueeze(0), at::bitwise_and(stream, kLow)});
  const auto threshold = static_cast<int64_t>(DropoutThreshold(probability));
  std::vector<at::Tensor> kept;
  for (const at::Tensor& word : words) {
    kept.push_back(word.expand({n, groups * kLanes}).ge(threshold).view({n, groups, kLanes}));
  }
  return at::stack(kept, 2).view({n, groups * kGroup}).narrow(1, 0, rows.columns);
}

at::Tensor Drop(const at::Tensor& x, const at::Tensor& keep, double probability) {
  return keep.defined() ? x * keep * (1.0 / (1.0 - probability)) : x;
}

}  // namespace mindforge
