#include "worker/infer/sampler.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

std::vector<double> Probabilities(Sampler& sampler, const std::vector<float>& logits) {
  const auto distribution = sampler.Distribution(logits.data(), false);
  EXPECT_TRUE(distribution.ok()) << distribution.status();
  std::vector<double> dense(logits.size());
  for (const TokenProbability& t : *distribution) dense[t.token] = t.probability;
  return dense;
}

TEST(Sampler, GivesTheReferencesProbabilities) {
  std::ifstream file(std::string(std::getenv("MINDFORGE_TEST_DATA")) + "/golden/sampling.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 7u);
  for (const auto& c : cases) {
    const SamplingParams params{.temperature = c["temperature"],
                                .top_k = c["top_k"],
                                .top_p = c["top_p"],
                                .min_p = c["min_p"],
                                .repetition_penalty = c["repetition_penalty"]};
    const std::vector<float> logits = c["logits"];
    const std::vector<double> expected = c["probs"];
    Sampler sampler(params, static_cast<int64_t>(logits.size()), {});
    sampler.SeePrompt(c["history"].get<std::vector<int32_t>>());
    const std::vector<double> actual = Probabilities(sampler, logits);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(actual[i], expected[i], 1e-6) << c["temperature"] << " id " << i;
    }
  }
}

TEST(Sampler, GreedyTakesTheLowestIdOnTies) {
  Sampler sampler({.temperature = 0}, 5, {});
  const std::vector<float> logits = {1, 3, 2, 3, 3};
  EXPECT_EQ(*sampler.Choose(logits.data(), 0, false), 1);
}

// 1 / 1e-310 is infinite and 0 times that no number.
TEST(Sampler, ATemperatureNextToZeroIsGreedy) {
  const std::vector<float> logits = {1, 3, 2, 3, 3};
  for (const double temperature : {5e-324, 1e-310, 1e-200, 1e-7}) {
    for (const int64_t top_k : {0, 2}) {
      Sampler sampler({.temperature = temperature, .top_k = top_k, .top_p = 0.9, .min_p = 0.1}, 5,
                      {});
      const auto token = sampler.Choose(logits.data(), 0, false);
      ASSERT_TRUE(token.ok()) << token.status();
      EXPECT_EQ(*token, 1) << temperature;
    }
  }
}

TEST(Sampler, TheLeastTemperatureAndEveryCutLeaveAToken) {
  const std::vector<float> logits = {-1e30f, 7, 6.999f, -8};
  for (const double temperature : {kLeastTemperature, 1.0, 100.0}) {
    for (const double cut : {0.0, 1.0}) {
      Sampler sampler({.temperature = temperature, .top_k = 1, .top_p = cut, .min_p = cut}, 4, {});
      EXPECT_EQ(*sampler.Choose(logits.data(), 0, false), 1) << temperature << " " << cut;
    }
  }
}

TEST(Sampler, TheDrawDependsOnSeedSequenceAndPositionOnly) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 17) / 4;
  auto draw = [&](uint64_t seed, uint64_t sequence, uint64_t position) {
    Sampler sampler({.seed = seed, .sequence = sequence}, 1000, {});
    return *sampler.Choose(logits.data(), position, false);
  };
  EXPECT_EQ(draw(1, 0, 5), draw(1, 0, 5));
  EXPECT_NE(draw(1, 0, 5), draw(2, 0, 5));
  EXPECT_NE(draw(1, 0, 5), draw(1, 1, 5));
  EXPECT_NE(draw(1, 0, 5), draw(1, 0, 6));
}

TEST(Sampler, DrawsInProportion) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  Sampler sampler({.seed = 3}, 3, {});
  std::vector<int> counts(3);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++counts[*sampler.Choose(logits.data(), i, false)];
  EXPECT_NEAR(counts[0], 0.5 * kDraws, 300);
  EXPECT_NEAR(counts[1], 0.3 * kDraws, 300);
  EXPECT_NEAR(counts[2], 0.2 * kDraws, 300);
}

// From Random123's known answers of philox4x32-10.
TEST(Sampler, DrawsAreMadeOfPhiloxsFirst64Bits) {
  EXPECT_EQ(PhiloxUniform(0, 0, 0), static_cast<double>(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
  constexpr uint64_t kOnes = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(PhiloxUniform(kOnes, kOnes, kOnes),
            static_cast<double>(0x41c83b0e408f276du >> 11) * 0x1p-53);
}

TEST(Sampler, TopPKeepsAtLeastOneAndTheSmallestSet) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.2f),
                                     std::log(0.1f)};
  Sampler none({.top_p = 0.0}, 4, {});
  EXPECT_EQ(Probabilities(none, logits), (std::vector<double>{1, 0, 0, 0}));
  Sampler two({.top_p = 0.6}, 4, {});
  const std::vector<double> kept = Probabilities(two, logits);
  EXPECT_NEAR(kept[0], 4.0 / 7, 1e-6);
  EXPECT_NEAR(kept[1], 3.0 / 7, 1e-6);
  EXPECT_EQ(kept[2], 0);
}

TEST(Sampler, PenaltiesCountOutputOnly) {
  const std::vector<float> logits = {1, 1, 1};
  Sampler sampler({.presence_penalty = 0.5, .frequency_penalty = 0.25}, 3, {});
  const std::vector<int32_t> prompt = {0};
  sampler.SeePrompt(prompt);
  sampler.SeeOutput(1);
  sampler.SeeOutput(1);
  const std::vector<double> p = Probabilities(sampler, logits);
  EXPECT_NEAR(p[1] / p[0], std::exp(-1.0), 1e-6);
  EXPECT_NEAR(p[2], p[0], 1e-9);
}

TEST(Sampler, BlockedIdsAreImpossibleWhileBlocked) {
  const std::vector<float> logits = {0, 9, 1};
  Sampler sampler({.temperature = 0}, 3, {1});
  EXPECT_EQ(*sampler.Choose(logits.data(), 0, true), 2);
  EXPECT_EQ(*sampler.Choose(logits.data(), 0, false), 1);
}

TEST(Sampler, RefusesLogitsWithoutAMeaning) {
  Sampler sampler({}, 3, {});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float none = -std::numeric_limits<float>::infinity();
  const std::vector<float> broken = {0, nan, 1};
  const std::vector<float> empty = {none, none, none};
  EXPECT_EQ(sampler.Choose(broken.data(), 0, false).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sampler.Choose(empty.data(), 0, false).status().code(), absl::StatusCode::kInternal);
}

TEST(RawLogprobs, AreThoseOfTheSoftmax) {
  const std::vector<float> logits = {1, 2, 3, 3};
  const RawLogprobs raw(logits);
  const double sum = std::exp(1.0) + std::exp(2.0) + 2 * std::exp(3.0);
  EXPECT_NEAR(raw.Of(1).logprob, 2 - std::log(sum), 1e-6);
  const auto top = raw.Top(3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 2);
  EXPECT_EQ(top[1].token, 3);
  EXPECT_EQ(top[2].token, 1);
}

}  // namespace
}  // namespace mindforge
