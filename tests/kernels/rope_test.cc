#include "worker/kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mindforge {
namespace {

ModelConfig Config(int64_t head_dim) {
  ModelConfig config;
  config.num_attention_heads = 4;
  config.hidden_size = 4 * head_dim;
  config.max_position_embeddings = 256;
  config.rope_theta = 1e4;
  return config;
}

TEST(Rope, FrequenciesFallGeometrically) {
  const auto f = RopeInverseFrequencies(Config(8));
  ASSERT_EQ(f.size(), 4u);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.1f);
  EXPECT_FLOAT_EQ(f[3], 0.001f);
}

TEST(Rope, TablesHoldTheAnglesOfEachPosition) {
  const RopeTables tables = MakeRopeTables(Config(8), 5);
  EXPECT_EQ(tables.positions, 5);
  EXPECT_EQ(tables.half, 4);
  EXPECT_FLOAT_EQ(tables.cos[3 * 4 + 1], std::cos(0.3f));
  EXPECT_FLOAT_EQ(tables.sin[4 * 4 + 0], std::sin(4.0f));
  EXPECT_EQ(tables.sin[0], 0.0f);
}

TEST(Rope, MinimindScalingBlendsUpToTheFirstSlowFrequencyAndDividesTheRest) {
  ModelConfig config = Config(8);
  RopeScaling scaling;
  scaling.original_max_position_embeddings = 70;  // 2π/f: 6.3, 63, 628, 6283
  scaling.factor = 4;
  config.rope_scaling = scaling;
  const auto f = RopeInverseFrequencies(config);
  EXPECT_FLOAT_EQ(f[0], 1.0f * (1 * 4 - 1 + 1) / (1 * 4));
  EXPECT_FLOAT_EQ(f[1], 0.1f * (2 * 4 - 2 + 1) / (2 * 4));  // beta: 1 + 3 · 1/3
  EXPECT_FLOAT_EQ(f[2], 0.01f / 4);
  EXPECT_FLOAT_EQ(f[3], 0.001f / 4);
}

TEST(Rope, MinimindScalingLeavesShortModelsAlone) {
  ModelConfig config = Config(8);
  config.rope_scaling = RopeScaling{};  // original length 2048, longer than the model's 256
  EXPECT_EQ(RopeInverseFrequencies(config), RopeInverseFrequencies(Config(8)));
}

TEST(Rope, YarnRampsBetweenFastAndSlowAndScalesTheTables) {
  ModelConfig config = Config(64);
  RopeScaling scaling;
  scaling.type = RopeScaling::Type::kYarn;
  scaling.original_max_position_embeddings = 2048;
  scaling.factor = 16;
  scaling.beta_fast = 32;
  scaling.beta_slow = 1;
  scaling.attention_factor = 1.5;
  config.rope_scaling = scaling;
  const auto plain = RopeInverseFrequencies(Config(64));
  const auto f = RopeInverseFrequencies(config);
  EXPECT_FLOAT_EQ(f[0], plain[0]);
  EXPECT_FLOAT_EQ(f[31], plain[31] / 16);
  // dim(b) = 64 · ln(2048 / 2πb) / (2 · ln 1e4): low = floor(8.06), high = ceil(20.1).
  const double ramp = (15.0 - 8) / (21 - 8);
  EXPECT_NEAR(f[15], plain[15] * (1 - ramp + ramp / 16), 1e-7);
  EXPECT_FLOAT_EQ(MakeRopeTables(config, 1).cos[0], 1.5f);
}

}  // namespace
}  // namespace mindforge
