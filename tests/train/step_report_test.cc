#include "worker/train/step_report.h"

#include <gtest/gtest.h>

#include "worker/train/flops.h"

namespace mindforge {
namespace {

TEST(ProgressLine, LooksAsPeopleKnowIt) {
  EXPECT_EQ(ProgressLine({.loss = 7.0745851, .learning_rate = 0.000549993674},
                         {.epoch = 0, .step_in_epoch = 99}, 1, 5520, absl::Minutes(72)),
            "Epoch:[1/1](100/5520) loss:7.074585 lr:0.000549993674 epoch_Time:72.0min:");
}

TEST(Flops, CountsAWeightSixTimesAndAttentionByLength) {
  ModelConfig config;
  config.hidden_size = 512;
  const double none = FlopsPerToken(config, 0);
  EXPECT_DOUBLE_EQ(none, 6.0 * static_cast<double>(config.ParameterCount()));
  EXPECT_DOUBLE_EQ(FlopsPerToken(config, 512) - none, 12.0 * 8 * 512 * 512);
}

TEST(Flops, KnowsTheCeilingsOfCommonDevices) {
  EXPECT_EQ(PeakFlops("NVIDIA H100 80GB HBM3", true), 989e12);
  EXPECT_EQ(PeakFlops("NVIDIA H100 PCIe", true), 756e12);
  EXPECT_EQ(PeakFlops("NVIDIA A100-SXM4-40GB", false), 19.5e12);
  EXPECT_EQ(PeakFlops("NVIDIA A10G", true), 70e12);
  EXPECT_EQ(PeakFlops("avx512", true), 0);
}

}  // namespace
}  // namespace mindforge
