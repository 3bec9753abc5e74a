#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/order.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;

TEST(Permutation, MeetsEachThingOnce) {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    const Permutation permutation(n, 42, 0);
    std::vector<bool> met(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = permutation.At(i);
      ASSERT_TRUE(at >= 0 && at < n);
      EXPECT_FALSE(met[at]) << n;
      met[at] = true;
    }
  }
}

TEST(Permutation, DependsOnSeedAndEpochAndOnNothingElse) {
  const auto first = [](uint64_t seed, int64_t epoch) {
    std::vector<int64_t> order;
    const Permutation permutation(1000, seed, epoch);
    for (int64_t i = 0; i < 20; ++i) order.push_back(permutation.At(i));
    return order;
  };
  EXPECT_EQ(first(1, 0), first(1, 0));
  EXPECT_NE(first(1, 0), first(2, 0));
  EXPECT_NE(first(1, 0), first(1, 1));
  // The order of a job is a promise: checkpoints of older builds go on with it.
  const Permutation permutation(10, 42, 0);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < 10; ++i) all.push_back(permutation.At(i));
  EXPECT_THAT(all, ElementsAre(4, 1, 5, 7, 2, 8, 3, 6, 0, 9));
}

TEST(Permutation, SpreadsNeighboursOverTheWhole) {
  // The mean distance of two random numbers below n is n/3.
  constexpr int64_t kN = 100'000;
  const Permutation permutation(kN, 7, 3);
  double distance = 0;
  for (int64_t i = 0; i + 1 < 10'000; ++i) {
    distance += std::abs(permutation.At(i) - permutation.At(i + 1));
  }
  EXPECT_NEAR(distance / 10'000, kN / 3.0, kN * 0.01);
}

TEST(Permutation, TakesLargeDatasets) {
  const Permutation permutation(int64_t{1} << 40, 7, 3);
  std::set<int64_t> met;
  for (int64_t i = 0; i < 1000; ++i) met.insert(permutation.At(i));
  EXPECT_EQ(met.size(), 1000u);
  EXPECT_LT(*met.rbegin(), int64_t{1} << 40);
}

TEST(EpochPlan, ConsumesEachSequenceOnceWithPartialLastSteps) {
  for (const int64_t n : {1, 7, 8, 31, 32, 33, 64, 65, 127}) {
    for (const auto& [b, a] : {std::pair<int64_t, int64_t>{4, 8}, {4, 1}, {1, 5}, {100, 3}}) {
      const EpochPlan plan({n, b, a, 42});
      EXPECT_EQ(plan.StepsPerEpoch(), (n + a * b - 1) / (a * b));
      std::map<int64_t, int> times;
      int64_t seen = 0;
      for (int64_t s = 0; s < plan.StepsPerEpoch(); ++s) {
        EXPECT_EQ(plan.SequencesConsumed(s), seen);
        const bool last = s + 1 == plan.StepsPerEpoch();
        const int64_t microbatches = plan.MicrobatchesInStep(s);
        EXPECT_EQ(microbatches, last ? (n - seen + b - 1) / b : a);
        for (int64_t i = 0; i < microbatches; ++i) {
          const auto sequences = plan.SequencesOf(2, s, i);
          if (!last || i + 1 < microbatches) {
            EXPECT_EQ(static_cast<int64_t>(sequences.size()), b);
          }
          for (const int64_t sequence : sequences) ++times[sequence];
          seen += static_cast<int64_t>(sequences.size());
        }
      }
      EXPECT_EQ(seen, n);
      EXPECT_EQ(plan.SequencesConsumed(plan.StepsPerEpoch()), n);
      EXPECT_EQ(static_cast<int64_t>(times.size()), n);
    }
  }
}

TEST(EpochPlan, CountsStepsOverEpochs) {
  const EpochPlan plan({33, 4, 8, 42});  // two steps an epoch
  const std::vector<std::pair<int64_t, int64_t>> expected = {
      {0, 0}, {0, 1}, {1, 0}, {1, 1}, {2, 0}};
  for (int64_t step = 1; step <= 5; ++step) {
    const StepPosition position = plan.PositionOf(step);
    EXPECT_EQ(position.epoch, expected[step - 1].first);
    EXPECT_EQ(position.step_in_epoch, expected[step - 1].second);
  }
}

TEST(EpochPlan, ShufflesEachEpochAnew) {
  const EpochPlan plan({100, 10, 2, 42});
  EXPECT_NE(plan.SequencesOf(0, 0, 0), plan.SequencesOf(1, 0, 0));
  EXPECT_EQ(plan.SequencesOf(1, 0, 0), plan.SequencesOf(1, 0, 0));
}

}  // namespace
}  // namespace mindforge
