// What a job comes to under each recipe: the values of the reference's releases, what overrides
// them, and what does not go together.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/validate_job.h"
#include "tests/coordinator/good_job.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::JobSpec JobWith(const std::string& change) {
  v1::JobSpec job = GoodJob("tang");
  v1::JobSpec parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(change, &parsed)) << change;
  job.MergeFrom(parsed);
  return job;
}

v1::JobSpec Resolved(const std::string& change) {
  const ValidatedJob job = ValidateJob(JobWith(change));
  EXPECT_THAT(job.violations, IsEmpty()) << job.violations[0].description;
  return job.spec;
}

// "field: description" of the one thing that is wrong.
std::string Refusal(const std::string& change) {
  const ValidatedJob job = ValidateJob(JobWith(change));
  EXPECT_EQ(job.violations.size(), 1u) << change;
  return job.violations.empty() ? ""
                                : job.violations[0].field + ": " + job.violations[0].description;
}

TEST(Recipe, NoneLeavesEveryValueAsItIsWithoutOne) {
  const v1::JobSpec job = Resolved("");
  EXPECT_EQ(job.recipe(), "");
  EXPECT_EQ(job.training().schedule(), "cosine");
  EXPECT_EQ(job.data().format(), "text");
  EXPECT_FALSE(job.data().add_bos_eos());
  EXPECT_FALSE(job.model().has_num_experts());
  EXPECT_EQ(job.model().n_routed_experts(), 4);
  EXPECT_EQ(job.checkpoint().every_steps(), 100);
  const v1::JobSpec chats = Resolved("data {format: 'conversations'}");
  EXPECT_EQ(chats.training().learning_rate(), 5e-4);
  EXPECT_EQ(chats.data().max_seq_len(), 512);
}

// Trainers of before leave unread what they do not know, and train something else.
TEST(Recipe, WhatTrainersDidNotAlwaysKnowIsNamed) {
  const auto newer = [](const std::string& change) {
    return WishOf(Resolved(change)).newer_fields;
  };
  EXPECT_EQ(newer(""), "");
  EXPECT_EQ(newer("recipe: 'minimind2' model {use_moe: true}"), "");
  EXPECT_EQ(newer("data {format: 'conversations'}"), "data.format");
  EXPECT_EQ(newer("recipe: 'minimind3'"), "data.add_bos_eos, training.schedule");
  EXPECT_EQ(newer("model {use_moe: true num_experts: 4}"), "model.num_experts");
}

TEST(Recipe, MiniMind2IsTheDefaultsAndItsCheckpoints) {
  v1::JobSpec job = Resolved("recipe: 'minimind2'");
  EXPECT_EQ(job.checkpoint().every_steps(), 13) << "100 microbatches, 12.5 steps";
  job.mutable_checkpoint()->set_every_steps(100);
  job.clear_recipe();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(job, Resolved("")));
}

TEST(Recipe, MiniMind3PretrainsAsItsRelease) {
  const v1::JobSpec job = Resolved("recipe: 'minimind3'");
  EXPECT_EQ(job.recipe(), "minimind3");
  const v1::ModelSpec& model = job.model();
  EXPECT_EQ(model.hidden_size(), 768);
  EXPECT_EQ(model.num_hidden_layers(), 8);
  EXPECT_EQ(model.num_attention_heads(), 8);
  EXPECT_EQ(model.num_key_value_heads(), 4);
  EXPECT_EQ(model.head_dim(), 96);
  EXPECT_EQ(model.intermediate_size(), 2432);
  EXPECT_EQ(model.rms_norm_eps(), 1e-6);
  EXPECT_TRUE(model.qk_norm());
  EXPECT_FALSE(model.use_moe());
  EXPECT_TRUE(job.data().add_bos_eos());
  EXPECT_EQ(job.data().max_seq_len(), 340);
  EXPECT_EQ(job.training().epochs(), 2);
  EXPECT_EQ(job.training().microbatch_size(), 32);
  EXPECT_EQ(job.training().accumulation_steps(), 8);
  EXPECT_EQ(job.training().learning_rate(), 5e-4);
  EXPECT_EQ(job.training().schedule(), "cosine_from_lr");
  EXPECT_EQ(job.checkpoint().every_steps(), 125) << "1,000 microbatches";
}

TEST(Recipe, MiniMind3sMixtureHasItsOwnFields) {
  const v1::ModelSpec model = Resolved("recipe: 'minimind3' model {use_moe: true}").model();
  EXPECT_EQ(model.num_experts(), 4);
  EXPECT_EQ(model.num_experts_per_tok(), 1);
  EXPECT_EQ(model.moe_intermediate_size(), 2432);
  EXPECT_EQ(model.router_aux_loss_coef(), 5e-4);
  EXPECT_TRUE(model.norm_topk_prob());
  EXPECT_FALSE(model.has_n_routed_experts() || model.has_n_shared_experts() ||
               model.has_aux_loss_alpha() || model.has_seq_aux());
  // Any of its fields says so without a recipe, too.
  for (const char* field :
       {"num_experts: 8", "moe_intermediate_size: 64", "router_aux_loss_coef: 0.01"}) {
    const v1::ModelSpec named =
        Resolved(std::string("model {use_moe: true ") + field + "}").model();
    EXPECT_TRUE(named.has_num_experts()) << field;
    EXPECT_FALSE(named.has_n_routed_experts()) << field;
    EXPECT_EQ(named.num_experts_per_tok(), 1) << field;
    EXPECT_FALSE(named.qk_norm()) << field;
  }
}

TEST(Recipe, ConversationsTakeTheFineTuningDefaults) {
  const v1::JobSpec third = Resolved("recipe: 'minimind3' data {format: 'conversations'}");
  EXPECT_FALSE(third.data().add_bos_eos());
  EXPECT_EQ(third.data().max_seq_len(), 768);
  EXPECT_EQ(third.training().epochs(), 2);
  EXPECT_EQ(third.training().microbatch_size(), 16);
  EXPECT_EQ(third.training().accumulation_steps(), 1);
  EXPECT_EQ(third.training().learning_rate(), 1e-5);
  EXPECT_EQ(third.training().schedule(), "cosine_from_lr");
  EXPECT_EQ(third.checkpoint().every_steps(), 1000);
  EXPECT_EQ(third.data().random_system_fraction(), 0);
  EXPECT_EQ(third.data().drop_empty_think_fraction(), 0);
  const v1::JobSpec second = Resolved("recipe: 'minimind2' data {format: 'conversations'}");
  EXPECT_EQ(second.data().max_seq_len(), 512);
  EXPECT_EQ(second.training().epochs(), 2);
  EXPECT_EQ(second.training().microbatch_size(), 16);
  EXPECT_EQ(second.training().accumulation_steps(), 1);
  EXPECT_EQ(second.training().learning_rate(), 5e-7);
  EXPECT_EQ(second.training().schedule(), "cosine");
}

TEST(Recipe, AFieldThatIsSetStaysAsItIs) {
  const v1::JobSpec job = Resolved(
      "recipe: 'minimind3' model {hidden_size: 512 rms_norm_eps: 1e-5 qk_norm: false"
      " num_key_value_heads: 2 router_aux_loss_coef: 0 norm_topk_prob: false}"
      "data {add_bos_eos: false max_seq_len: 128}"
      "training {schedule: 'cosine' epochs: 1 learning_rate: 0.001 accumulation_steps: 4}"
      "checkpoint {every_steps: 7}");
  EXPECT_EQ(job.model().intermediate_size(), 1664) << "64·ceil(π·512/64)";
  EXPECT_EQ(job.model().rms_norm_eps(), 1e-5);
  EXPECT_FALSE(job.model().qk_norm());
  EXPECT_EQ(job.model().num_key_value_heads(), 2);
  EXPECT_EQ(job.model().router_aux_loss_coef(), 0);
  EXPECT_FALSE(job.model().norm_topk_prob());
  EXPECT_FALSE(job.data().add_bos_eos());
  EXPECT_EQ(job.data().max_seq_len(), 128);
  EXPECT_EQ(job.training().schedule(), "cosine");
  EXPECT_EQ(job.training().epochs(), 1);
  EXPECT_EQ(job.training().learning_rate(), 0.001);
  EXPECT_EQ(job.checkpoint().every_steps(), 7);
}

// What `job get` prints can be submitted again, with its recipe or without.
TEST(Recipe, AResolvedJobResolvesToItself) {
  for (const char* change :
       {"", "recipe: 'minimind2'", "recipe: 'minimind3'",
        "recipe: 'minimind3' model {use_moe: true} data {format: 'conversations'}"}) {
    v1::JobSpec job = Resolved(change);
    ValidatedJob again = ValidateJob(job);
    EXPECT_THAT(again.violations, IsEmpty()) << change;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(again.spec, job)) << change;
    job.clear_recipe();
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(ValidateJob(job).spec, job))
        << change;
  }
}

TEST(Recipe, AnUnknownOneIsRefusedWithTheList) {
  EXPECT_EQ(Refusal("recipe: 'minimind4'"),
            "recipe: is 'minimind4', must be minimind2 or minimind3");
}

TEST(Recipe, FieldsOfTwoMixturesAreRefusedByName) {
  EXPECT_THAT(Refusal("model {use_moe: true num_experts: 4 n_routed_experts: 4}"),
              HasSubstr("model.n_routed_experts: is of MiniMind2's mixture of experts, "
                        "model.num_experts of MiniMind-3's"));
  for (const char* field :
       {"n_routed_experts: 4", "n_shared_experts: 1", "aux_loss_alpha: 0.1", "seq_aux: true"}) {
    const std::string model = std::string("model {use_moe: true ") + field;
    EXPECT_THAT(Refusal(model + " router_aux_loss_coef: 0.1}"),
                HasSubstr("model.router_aux_loss_coef of MiniMind-3's"));
    EXPECT_THAT(Refusal(model + " moe_intermediate_size: 64}"),
                HasSubstr("model.moe_intermediate_size of MiniMind-3's"));
    EXPECT_THAT(Refusal("recipe: 'minimind3' " + model + "}"),
                HasSubstr("and recipe is minimind3, whose fields are num_experts"));
  }
  EXPECT_THAT(Refusal("recipe: 'minimind2' model {use_moe: true num_experts: 8}"),
              HasSubstr("model.num_experts: is of MiniMind-3's mixture of experts, and recipe is "
                        "minimind2, whose fields are n_routed_experts"));
}

TEST(Recipe, TheThirdMixturesSizesAreChecked) {
  EXPECT_THAT(Refusal("model {use_moe: true num_experts: 0}"),
              HasSubstr("model.num_experts: is 0, must be from 1"));
  EXPECT_THAT(Refusal("model {use_moe: true num_experts: 4 num_experts_per_tok: 5}"),
              HasSubstr("model.num_experts_per_tok: is 5, must be from 1 to 4"));
  EXPECT_THAT(Refusal("model {use_moe: true moe_intermediate_size: 0}"),
              HasSubstr("model.moe_intermediate_size: is 0, must be from 1"));
  EXPECT_THAT(Refusal("model {router_aux_loss_coef: -1}"),
              HasSubstr("model.router_aux_loss_coef: is -1, must be from 0"));
}

TEST(Recipe, OptionsOfTheOtherFormatAreRefused) {
  EXPECT_THAT(Refusal("data {format: 'chats'}"),
              HasSubstr("data.format: is 'chats', must be text or conversations"));
  EXPECT_THAT(Refusal("data {random_system_fraction: 0.2}"),
              HasSubstr("data.random_system_fraction: is set, and data.format is text"));
  EXPECT_THAT(Refusal("data {drop_empty_think_fraction: 0.8}"),
              HasSubstr("data.drop_empty_think_fraction: is set, and data.format is text"));
  EXPECT_THAT(Refusal("data {format: 'conversations' random_system_fraction: 1.5}"),
              HasSubstr("must be from 0 to 1"));
  EXPECT_THAT(Refusal("data {format: 'conversations' add_bos_eos: true}"),
              HasSubstr("data.add_bos_eos: is true, and data.format is conversations"));
  EXPECT_THAT(Refusal("data {add_bos_eos: true max_seq_len: 2}"),
              HasSubstr("data.max_seq_len: is 2, which bos and eos fill"));
  EXPECT_THAT(Refusal("training {schedule: 'wsd'}"),
              HasSubstr("training.schedule: is 'wsd', must be cosine or cosine_from_lr"));
}

TEST(Recipe, WarnsOfWhatIsLikelyNotMeant) {
  EXPECT_THAT(ValidateJob(JobWith("data {format: 'conversations'}")).warnings,
              ElementsAre(HasSubstr("training.init_from is not set")));
  EXPECT_THAT(ValidateJob(JobWith("model {num_experts: 8}")).warnings,
              ElementsAre(HasSubstr("model.use_moe is not: the model is dense")));
  EXPECT_THAT(ValidateJob(JobWith("model {use_moe: false n_routed_experts: 8}")).warnings,
              IsEmpty());
}

}  // namespace
}  // namespace mindforge
