#include "worker/dist/gradient_reducer.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tests/fakes/local_group.h"

namespace mindforge {
namespace {

constexpr int64_t kElements = 1003;  // no multiple of a cache line

std::vector<float> GradientOf(int64_t microbatch) {
  std::mt19937_64 random(static_cast<uint64_t>(microbatch) + 1);
  std::uniform_real_distribution<float> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-10, 10);
  std::vector<float> values(kElements + 1);
  for (float& value : values) value = std::ldexp(mantissa(random), exponent(random));
  return values;
}

// The sum and loss of one step, as one vector.
std::vector<float> Reduce(GradientReducer& reducer, int64_t microbatches) {
  const MicrobatchRange run = reducer.BeginStep(microbatches);
  for (int64_t i = run.begin; i < run.end; ++i) {
    const std::vector<float> values = GradientOf(i);
    const at::Tensor gradient = reducer.NextGradient();
    std::memcpy(gradient.mutable_data_ptr(), values.data(), kElements * sizeof(float));
    reducer.Add(at::tensor(values.back()));
  }
  const auto sum = reducer.Finish(absl::Seconds(20));
  EXPECT_TRUE(sum.ok()) << sum.status();
  if (!sum.ok()) return {};
  std::vector<float> result(kElements + 1);
  std::memcpy(result.data(), sum->gradient.const_data_ptr(), kElements * sizeof(float));
  result.back() = sum->loss.item<float>();
  return result;
}

TEST(GradientReducer, AllRanksGetTheBitsOfOneRank) {
  const std::vector<int64_t> steps{8, 8, 5, 3, 1, 7};
  std::vector<std::vector<float>> expected;
  RunRanks(1, [&](ProcessGroup& group) {
    GradientReducer reducer(kElements, at::kCPU, group);
    for (const int64_t n : steps) expected.push_back(Reduce(reducer, n));
  });
  for (const int world_size : {2, 3, 4, 5}) {
    RunRanks(world_size, [&](ProcessGroup& group) {
      GradientReducer reducer(kElements, at::kCPU, group);
      for (size_t i = 0; i < steps.size(); ++i) {
        const std::vector<float> sum = Reduce(reducer, steps[i]);
        ASSERT_EQ(sum.size(), expected[i].size());
        EXPECT_EQ(std::memcmp(sum.data(), expected[i].data(), sum.size() * sizeof(float)), 0)
            << steps[i] << " microbatches, rank " << group.rank() << " of " << world_size;
      }
    });
  }
}

TEST(GradientReducer, OneMicrobatchIsItsOwnSum) {
  RunRanks(1, [](ProcessGroup& group) {
    GradientReducer reducer(kElements, at::kCPU, group);
    EXPECT_EQ(Reduce(reducer, 1), GradientOf(0));
  });
}

TEST(GradientReducer, ALostPeerLosesTheStep) {
  RunRanks(2, [](ProcessGroup& group) {
    GradientReducer reducer(kElements, at::kCPU, group);
    reducer.BeginStep(2);
    reducer.NextGradient().zero_();
    reducer.Add(at::tensor(1.0f));
    if (group.rank() == 1) return;
    const auto sum = reducer.Finish(absl::Seconds(20));
    EXPECT_TRUE(IsPeerLost(sum.status())) << sum.status();
  });
}

}  // namespace
}  // namespace mindforge
