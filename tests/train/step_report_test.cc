#include "worker/train/step_report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "worker/train/flops.h"

namespace mindforge {
namespace {

TEST(ProgressLine, LooksAsPeopleKnowIt) {
  EXPECT_EQ(ProgressLine({.loss = 7.0745851, .learning_rate = 0.000549993674},
                         {.epoch = 0, .step_in_epoch = 99}, 1, 5520, absl::Minutes(72)),
            "Epoch:[1/1](100/5520) loss:7.074585 lr:0.000549993674 epoch_Time:72.0min:");
}

TEST(ProgressLine, AddsWhatOnlySomeJobsHave) {
  EXPECT_EQ(ProgressLine({.loss = 2.5,
                          .learning_rate = 1e-3,
                          .validation_loss = 2.75,
                          .loss_scale = 32768,
                          .skipped_steps = 2},
                         {}, 2, 10, absl::ZeroDuration()),
            "Epoch:[1/2](1/10) loss:2.500000 lr:0.001000000000 epoch_Time:0.0min:"
            " validation_loss:2.750000 loss_scale:32768 skipped:2");
}

TEST(WhyStopped, NamesStepRateAndNewestCheckpoint) {
  const StepResult result{.loss = std::nan(""), .learning_rate = 0.25};
  TrainRecipe recipe;
  EXPECT_EQ(WhyStopped(15, result, recipe, {}, 10),
            "the loss is nan at step 15 with a learning rate of 0.25 and grad_clip 1; lower "
            "training.learning_rate or training.grad_clip and submit it again as a new job; the "
            "newest checkpoint is of step 10");
  TrainRecipe unclipped;
  unclipped.grad_clip = 0;
  EXPECT_EQ(WhyStopped(15, result, unclipped, {}, 0),
            "the loss is nan at step 15 with a learning rate of 0.25 and no clipping; lower "
            "training.learning_rate or clip (training.grad_clip: 1) and submit it again as a new "
            "job; no checkpoint was written yet");
  recipe.nan_policy = NanPolicy::kRollBack;
  EXPECT_EQ(WhyStopped(15, {.loss = 1, .learning_rate = 0.25, .gradient_norm = HUGE_VAL}, recipe,
                       {.rollbacks_in_a_row = 3}, 0),
            "the gradient's norm is inf at step 15 with a learning rate of 0.25 and grad_clip 1 "
            "after 3 rollbacks to the same checkpoint; lower training.learning_rate or "
            "training.grad_clip and submit it again as a new job; no checkpoint was written yet");
}

TEST(Flops, CountsOfTheExpertsThoseThatATokenIsSentTo) {
  ModelConfig dense, moe;
  moe.use_moe = true;
  moe.num_experts_per_tok = 2;
  moe.n_routed_experts = 8;
  moe.n_shared_experts = 1;
  const double mlp = 3.0 * static_cast<double>(dense.hidden_size * dense.IntermediateSize());
  const double router = 8.0 * static_cast<double>(dense.hidden_size);
  EXPECT_DOUBLE_EQ(FlopsPerToken(moe, 64) - FlopsPerToken(dense, 64),
                   6 * static_cast<double>(dense.num_hidden_layers) * (2 * mlp + router));
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
  EXPECT_EQ(PeakFlops("NVIDIA L40", true), 181e12);
  EXPECT_EQ(PeakFlops("NVIDIA L4", true), 121e12);
  EXPECT_EQ(PeakFlops("NVIDIA RTX A1000", true), 0) << "no A100";
  EXPECT_EQ(PeakFlops("avx512", true), 0);
}

}  // namespace
}  // namespace mindforge
