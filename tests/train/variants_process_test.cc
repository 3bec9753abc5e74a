// What models and dtypes the trainer knows, each in real processes: one result at every world size
// and across a pause.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "nlohmann/json.hpp"
#include "tests/train/trained.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/hf_folder.h"

namespace mindforge {
namespace {

using ::testing::SizeIs;

void MakeMoe(v1::JobSpec& spec) {
  spec.mutable_model()->set_use_moe(true);
  spec.mutable_model()->set_intermediate_size(48);
}

void MakeMiniMind3Moe(v1::JobSpec& spec, int64_t experts_per_token) {
  v1::ModelSpec& model = *spec.mutable_model();
  model.set_qk_norm(true);
  model.set_head_dim(24);
  model.set_rms_norm_eps(1e-6);
  model.set_use_moe(true);
  model.set_num_experts(4);
  model.set_num_experts_per_tok(experts_per_token);
  model.set_moe_intermediate_size(40);
  model.set_router_aux_loss_coef(0.05);
}

struct Variant {
  const char* name;
  void (*change)(v1::JobSpec&);
};

class VariantTest : public ::testing::TestWithParam<Variant> {};

TEST_P(VariantTest, HasTheSameBitsAtEveryWorldSizeAndAcrossAPause) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  GetParam().change(*start.mutable_spec());
  const Trained alone = Train(start, 1, "w1", folder);
  ASSERT_THAT(alone.rank0.steps, SizeIs(12));
  EXPECT_LT(alone.rank0.steps.back().loss(), alone.rank0.steps.front().loss());
  for (const int world_size : {2, 3, 4}) {
    const Trained shared = Train(start, world_size, absl::StrCat("w", world_size), folder);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
    ASSERT_THAT(shared.rank0.steps, SizeIs(12));
    for (size_t i = 0; i < 12; ++i) {
      EXPECT_EQ(shared.rank0.steps[i].loss(), alone.rank0.steps[i].loss()) << "step " << i + 1;
    }
  }
  start.mutable_spec()->mutable_training()->set_epochs(10);
  const Trained longer = Train(start, 1, "longer", folder);
  EXPECT_TRUE(TrainWithAPause(start, 3, 3, "paused", folder).SameBits(longer));
}

const Variant kVariants[] = {
    {"Moe", MakeMoe},
    {"MoeBatchAux",
     [](v1::JobSpec& spec) {
       MakeMoe(spec);
       spec.mutable_model()->set_seq_aux(false);
       spec.mutable_model()->set_norm_topk_prob(false);
       spec.mutable_training()->set_dtype("bfloat16");
     }},
    {"QkNorm",
     [](v1::JobSpec& spec) {
       spec.mutable_model()->set_qk_norm(true);
       spec.mutable_model()->set_head_dim(24);
     }},
    // What recipe: minimind3 comes to, but for its sizes.
    {"MiniMind3",
     [](v1::JobSpec& spec) {
       spec.mutable_model()->set_qk_norm(true);
       spec.mutable_model()->set_rms_norm_eps(1e-6);
       spec.mutable_data()->set_add_bos_eos(true);
       spec.mutable_training()->set_schedule("cosine_from_lr");
     }},
    {"MiniMind3MoeTopOne", [](v1::JobSpec& spec) { MakeMiniMind3Moe(spec, 1); }},
    {"MiniMind3MoeTopTwo",
     [](v1::JobSpec& spec) {
       MakeMiniMind3Moe(spec, 2);
       spec.mutable_training()->set_dtype("bfloat16");
     }},
    {"Dropout", [](v1::JobSpec& spec) { spec.mutable_model()->set_dropout(0.1); }},
    {"Float16", [](v1::JobSpec& spec) { spec.mutable_training()->set_dtype("float16"); }},
};

INSTANTIATE_TEST_SUITE_P(Trainer, VariantTest, ::testing::ValuesIn(kVariants),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Dropout, MasksDifferByStep) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  const Trained without = Train(start, 1, "without", folder);
  start.mutable_spec()->mutable_model()->set_dropout(0.2);
  const Trained with = Train(start, 1, "with", folder);
  EXPECT_NE(with.rank0.steps[0].loss(), without.rank0.steps[0].loss());
  // Nothing is learned: the same rows come back in the second epoch under other masks.
  start.mutable_spec()->mutable_training()->set_learning_rate(1e-12);
  start.mutable_spec()->mutable_training()->set_microbatch_size(43);
  start.mutable_spec()->mutable_training()->set_accumulation_steps(1);
  const Trained still = Train(start, 1, "still", folder);
  EXPECT_GT(std::abs(still.rank0.steps[0].loss() - still.rank0.steps[1].loss()), 1e-4);
}

class LoraTest : public ::testing::Test {
 protected:
  LoraTest() : start_(TinyJob(folder_)) {
    base_ = Train(start_, 1, "base", folder_);
    start_.mutable_spec()->mutable_lora()->set_rank(4);
    start_.mutable_spec()->mutable_training()->set_init_from(base_.folder);
    start_.mutable_spec()->mutable_training()->set_seed(7);
  }

  const TestFolder folder_;
  v1::StartTraining start_;
  Trained base_;
};

TEST_F(LoraTest, HasTheSameBitsAtEveryWorldSizeAndAcrossAPause) {
  const Trained alone = Train(start_, 1, "w1", folder_);
  EXPECT_LT(alone.rank0.steps.back().loss(), alone.rank0.steps.front().loss());
  for (const int world_size : {2, 3, 4}) {
    EXPECT_TRUE(Train(start_, world_size, absl::StrCat("w", world_size), folder_).SameBits(alone))
        << world_size << " ranks";
  }
  start_.mutable_spec()->mutable_training()->set_epochs(10);
  const Trained longer = Train(start_, 1, "longer", folder_);
  EXPECT_TRUE(TrainWithAPause(start_, 3, 3, "paused", folder_).SameBits(longer));
}

TEST_F(LoraTest, TrainsTheAdaptersAloneAndKeepsThemBesideTheBase) {
  const Trained trained = Train(start_, 2, "job", folder_);
  const auto before = LoadCheckpoint(base_.folder), after = LoadCheckpoint(trained.folder);
  ASSERT_TRUE(before.ok() && after.ok());
  for (const TensorView& tensor : before->model->tensors()) {
    const TensorView* kept = after->model->Find(tensor.name);
    ASSERT_NE(kept, nullptr) << tensor.name;
    EXPECT_EQ(std::memcmp(kept->data, tensor.data, static_cast<size_t>(tensor.bytes)), 0)
        << tensor.name;
  }
  // q and o of both layers are square.
  EXPECT_EQ(after->model->tensors().size(), before->model->tensors().size() + 8);
  EXPECT_EQ(after->optimizer->tensors().size(), 16u);
  const TensorView* b = after->model->Find("model.layers.1.self_attn.o_proj.lora.B.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->shape, testing::ElementsAre(32, 4));
  const auto* values = static_cast<const float*>(b->data);
  EXPECT_TRUE(std::any_of(values, values + 128, [](float value) { return value != 0; }));
  const auto config = nlohmann::json::parse(ReadAll(trained.folder + "/config.json"));
  EXPECT_EQ(config.at("lora_rank"), 4);
  EXPECT_EQ(config.at("mindforge_prompt_style"), "completion");
}

TEST_F(LoraTest, ItsCheckpointStartsAnotherJobMergedOrNot) {
  const Trained trained = Train(start_, 1, "job", folder_);
  const double reached = trained.rank0.steps.back().loss();
  v1::TrainingSpec& training = *start_.mutable_spec()->mutable_training();
  training.set_init_from(trained.folder);
  training.set_learning_rate(1e-12);
  const Trained further = Train(start_, 1, "further", folder_);
  start_.mutable_spec()->clear_lora();
  const Trained merged = Train(start_, 1, "merged", folder_);
  EXPECT_TRUE(Logged(merged.rank0, "its adapters of rank 4 were merged"));
  EXPECT_NEAR(further.rank0.steps[0].loss(), merged.rank0.steps[0].loss(), 1e-4);
  EXPECT_LT(merged.rank0.steps[0].loss(), base_.rank0.steps.back().loss() + 1) << reached;
}

}  // namespace
}  // namespace mindforge
