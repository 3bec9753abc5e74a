#include "worker/dist/reduction_tree.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace mindforge {
namespace {

constexpr int kMaxMicrobatches = 64;

// The definition, written as it is said: left subtree = largest power of two smaller than n.
float SumOfTree(const std::vector<float>& leaves, int64_t begin, int64_t end) {
  if (end - begin == 1) return leaves[begin];
  const int64_t n = end - begin;
  const auto left = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n - 1)));
  return SumOfTree(leaves, begin, begin + left) + SumOfTree(leaves, begin + left, end);
}

std::vector<float> RandomLeaves(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> mantissa(-1, 1);
  std::uniform_int_distribution<int> exponent(-12, 12);
  std::vector<float> leaves;
  for (int64_t i = 0; i < count; ++i)
    leaves.push_back(std::ldexp(mantissa(random), exponent(random)));
  return leaves;
}

// What a rank does: push leaves, add siblings as soon as both are there.
std::vector<std::pair<MicrobatchRange, float>> CounterOf(MicrobatchRange run,
                                                         const std::vector<float>& leaves) {
  std::vector<std::pair<MicrobatchRange, float>> stack;
  for (int64_t leaf = run.begin; leaf < run.end; ++leaf) {
    stack.push_back({{leaf, leaf + 1}, leaves[leaf]});
    while (stack.size() >= 2) {
      auto& [left, left_sum] = stack[stack.size() - 2];
      const auto& [right, right_sum] = stack.back();
      if (!AreSiblings(left, right, static_cast<int64_t>(leaves.size()))) break;
      left_sum += right_sum;
      left.end = right.end;
      stack.pop_back();
    }
  }
  return stack;
}

TEST(ReductionTree, GivesTheSameBitsForEveryWorldSizeAndNumberOfMicrobatches) {
  for (int64_t n = 1; n <= kMaxMicrobatches; ++n) {
    const std::vector<float> leaves = RandomLeaves(n, static_cast<uint64_t>(n));
    const float expected = SumOfTree(leaves, 0, n);
    for (int world_size = 1; world_size <= kMaxMicrobatches + 3; ++world_size) {
      std::vector<float> sums;
      for (int rank = 0; rank < world_size; ++rank) {
        for (const auto& [range, sum] : CounterOf(RunOf(rank, world_size, n), leaves)) {
          sums.push_back(sum);
        }
      }
      const auto plan = PlanPartials(world_size, n);
      ASSERT_EQ(plan.size(), sums.size()) << n << " over " << world_size;
      for (const PlannedAddition& addition : PlanAdditions(plan, n)) {
        sums[addition.into] += sums[addition.from];
      }
      ASSERT_EQ(std::bit_cast<uint32_t>(sums[0]), std::bit_cast<uint32_t>(expected))
          << n << " over " << world_size;
    }
  }
}

TEST(ReductionTree, ALeftToRightSumWouldDiffer) {
  const std::vector<float> leaves = RandomLeaves(64, 7);
  float sum = 0;
  for (const float leaf : leaves) sum += leaf;
  EXPECT_NE(sum, SumOfTree(leaves, 0, 64));
}

TEST(ReductionTree, TheCounterHoldsExactlyTheMaximalSubtrees) {
  for (int64_t n = 1; n <= kMaxMicrobatches; ++n) {
    const std::vector<float> leaves(static_cast<size_t>(n), 1.0f);
    for (int world_size = 1; world_size <= n; ++world_size) {
      for (int rank = 0; rank < world_size; ++rank) {
        const MicrobatchRange run = RunOf(rank, world_size, n);
        const auto partials = PartialsOf(run, n);
        const auto counter = CounterOf(run, leaves);
        ASSERT_EQ(counter.size(), partials.size());
        for (size_t i = 0; i < partials.size(); ++i) ASSERT_EQ(counter[i].first, partials[i]);
        EXPECT_LE(partials.size(), 2u * std::bit_width(static_cast<uint64_t>(n)));
      }
    }
  }
}

TEST(ReductionTree, PowersOfTwoSendOnePartialEach) {
  for (const int world_size : {1, 2, 4, 8}) {
    for (int rank = 0; rank < world_size; ++rank) {
      EXPECT_EQ(PartialsOf(RunOf(rank, world_size, 8), 8).size(), 1u);
    }
  }
}

TEST(ReductionTree, SplitsOffTheLargestPowerOfTwo) {
  EXPECT_EQ(SplitOf({0, 2}), 1);
  EXPECT_EQ(SplitOf({0, 5}), 4);
  EXPECT_EQ(SplitOf({4, 7}), 6);
  EXPECT_EQ(SplitOf({0, 8}), 4);
  EXPECT_TRUE(AreSiblings({0, 4}, {4, 5}, 5));
  EXPECT_TRUE(AreSiblings({4, 6}, {6, 7}, 7));
  EXPECT_FALSE(AreSiblings({2, 4}, {4, 5}, 5));
  EXPECT_FALSE(AreSiblings({1, 2}, {2, 3}, 8));
}

TEST(ReductionTree, RunsCoverAllMicrobatchesEvenly) {
  for (int64_t n = 1; n <= kMaxMicrobatches; ++n) {
    for (int world_size = 1; world_size <= kMaxMicrobatches; ++world_size) {
      int64_t next = 0;
      for (int rank = 0; rank < world_size; ++rank) {
        const MicrobatchRange run = RunOf(rank, world_size, n);
        ASSERT_EQ(run.begin, next);
        ASSERT_GE(run.size(), n / world_size);
        ASSERT_LE(run.size(), (n + world_size - 1) / world_size);
        next = run.end;
      }
      ASSERT_EQ(next, n);
    }
  }
}

TEST(ReductionTree, ChunksCoverTheBufferOnCacheLines) {
  for (const int64_t elements : {1, 15, 16, 17, 1000, 1 << 20}) {
    for (int world_size = 1; world_size <= 9; ++world_size) {
      int64_t next = 0;
      for (int owner = 0; owner < world_size; ++owner) {
        const ElementRange chunk = ChunkOf(owner, world_size, elements);
        ASSERT_EQ(chunk.begin, next);
        ASSERT_GE(chunk.size(), 0);
        if (chunk.end < elements) {
          ASSERT_EQ(chunk.end % 16, 0);
        }
        next = chunk.end;
      }
      ASSERT_EQ(next, elements);
    }
  }
}

}  // namespace
}  // namespace mindforge
