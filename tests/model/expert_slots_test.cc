#include "worker/model/expert_slots.h"

#include <gtest/gtest.h>

#include <vector>

namespace mindforge {
namespace {

// Three tokens, three experts, two choices each; nobody chooses expert 1 twice.
ExpertSlots Routed() {
  ExpertSlots slots;
  slots.Resize(3, 3, 2);
  slots.chosen = {2, 0, 0, 1, 2, 0};
  slots.weights = {0.6f, 0.4f, 0.7f, 0.3f, 0.9f, 0.1f};
  slots.scores = {0.3f, 0.1f, 0.6f, 0.5f, 0.4f, 0.1f, 0.2f, 0.1f, 0.7f};
  return slots;
}

TEST(ExpertSlots, AreSortedByExpertThenToken) {
  ExpertSlots slots = Routed();
  slots.Sort(3, 2, 1);
  EXPECT_EQ(slots.starts, (std::vector<int64_t>{0, 3, 4, 6}));
  EXPECT_EQ(slots.slot_tokens, (std::vector<int32_t>{0, 1, 2, 1, 0, 2}));
  EXPECT_EQ(slots.slot_experts, (std::vector<int32_t>{0, 0, 0, 1, 2, 2}));
  EXPECT_EQ(slots.slots, (std::vector<int32_t>{4, 0, 1, 3, 5, 2}));
  EXPECT_EQ(slots.slot_weights, (std::vector<float>{0.4f, 0.7f, 0.1f, 0.3f, 0.6f, 0.9f}));
}

TEST(ExpertSlots, AreFilledUpWithRowsThatWeighNothing) {
  ExpertSlots slots = Routed();
  slots.chosen = {2, 0, 0, 2, 2, 0};  // expert 1 is idle
  slots.Sort(3, 2, 4);
  EXPECT_EQ(slots.starts, (std::vector<int64_t>{0, 4, 4, 8}));
  EXPECT_EQ(slots.used, (std::vector<int64_t>{3, 0, 3}));
  EXPECT_EQ(slots.slot_tokens, (std::vector<int32_t>{0, 1, 2, -1, 0, 1, 2, -1}));
  EXPECT_EQ(slots.slot_weights[3], 0);
  EXPECT_LE(slots.size(), ExpertSlots::MostSlots(3, 3, 2, 4));
}

TEST(ExpertSlots, BalancePerSequenceIsTheReferences) {
  ExpertSlots slots = Routed();
  const int64_t starts[] = {0, 2, 3};
  const double loss = SetBalance({3, 2, 0.5, /*per_sequence=*/true}, 2, starts, 4.0f, slots);
  // Row 0: counts 2, 1, 1 over 2 · 2 / 3; mean scores .4, .25, .35. Row 1: 1, 0, 1 over 2 / 3.
  const double first = (2 * 0.4 + 1 * 0.25 + 1 * 0.35) * 3 / 4;
  const double second = (0.2 + 0.7) * 3 / 2;
  EXPECT_NEAR(loss, 0.5 * (first + second) / 2, 1e-7);
  EXPECT_NEAR(slots.balance[0], 4 * 0.5 / 2 * (2.0 * 3 / 4) / 2, 1e-6);
  EXPECT_EQ(slots.balance[3 + 1], 0);
}

TEST(ExpertSlots, BalanceOfTheBatchIsTheReferences) {
  ExpertSlots slots = Routed();
  const int64_t starts[] = {0, 2, 3};
  const double loss = SetBalance({3, 2, 0.5, /*per_sequence=*/false}, 2, starts, 1.0f, slots);
  // f = 3 · (3, 1, 2) / 6; P = (1.0, 0.6, 1.4) / 3.
  EXPECT_NEAR(loss, 0.5 * (1.5 * 1.0 + 0.5 * 0.6 + 1.0 * 1.4) / 3, 1e-7);
  EXPECT_NEAR(slots.balance[3], 0.5 * 1.5 / 3, 1e-7);
}

TEST(ExpertSlots, BalanceOfMiniMind3AddsTheChoicesOfATokenUp) {
  ModelConfig config;
  config.use_moe = true;
  config.moe_family = MoeFamily::kMinimind3;
  config.n_routed_experts = 3;
  config.num_experts_per_tok = 2;
  config.aux_loss_alpha = 0.5;
  config.seq_aux = false;
  ExpertSlots slots = Routed();
  const int64_t starts[] = {0, 2, 3};
  const double loss = SetBalance(BalanceOf(config), 2, starts, 1.0f, slots);
  // load = (3, 1, 2) / 3, summed over the two choices; P = (1.0, 0.6, 1.4) / 3.
  EXPECT_NEAR(loss, 0.5 * 3 * (3 * 1.0 + 1 * 0.6 + 2 * 1.4) / 9, 1e-6);
  EXPECT_NEAR(slots.balance[0], 0.5 * 3 * (3.0 / 3) / 3, 1e-7);
  EXPECT_NEAR(slots.balance[3 + 1], 0.5 * 3 * (1.0 / 3) / 3, 1e-7);
}

TEST(ExpertSlots, BalanceOfMiniMind2IsAsConfigured) {
  ModelConfig config;
  config.aux_loss_alpha = 0.3;
  config.num_experts_per_tok = 3;
  EXPECT_EQ(BalanceOf(config).alpha, 0.3);
  EXPECT_TRUE(BalanceOf(config).per_sequence);
  config.seq_aux = false;
  EXPECT_FALSE(BalanceOf(config).per_sequence);
}

}  // namespace
}  // namespace mindforge
