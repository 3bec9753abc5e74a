// Jobs that start from weights in every format, and from the reference's resume files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "nlohmann/json.hpp"
#include "tests/train/trained.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/pth.h"
#include "worker/formats/resume_pth.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

class InitFromTest : public ::testing::Test {
 protected:
  InitFromTest() : start_(TinyJob(folder_)) {
    start_.mutable_spec()->mutable_checkpoint()->set_every_steps(4);
    base_ = Train(start_, 1, "base", folder_);  // 12 steps, checkpoints of 4, 8 and 12
  }

  void SetSource(const std::string& path) {
    start_.mutable_spec()->mutable_training()->set_init_from(path);
  }

  // What refuses the job.
  std::string WhyRefused() {
    start_.set_checkpoint_dir(folder_ / "refused");
    TrainerGroup group(start_, 1);
    EXPECT_EQ(group.rank(0).Wait().code, 1);
    const TrainerReports reports = group.rank(0).reports();
    if (!reports.failure.has_value()) return "";
    EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_USER);
    EXPECT_EQ(reports.failure->problems(0).field(), "training.init_from");
    return reports.failure->message();
  }

  // The reference's resume file of the base's checkpoint `index`, at its place in the data.
  void WriteResume(size_t index, int64_t epoch, int64_t step, int64_t world_size) {
    const auto loaded = LoadCheckpoint(base_.rank0.checkpoints[index].path());
    MF_CHECK_OK(loaded.status());
    ResumePth resume;
    resume.epoch = epoch;
    resume.step = step;
    resume.world_size = world_size;
    resume.model.assign(loaded->model->tensors().begin(), loaded->model->tensors().end());
    for (const std::string& name : ReferenceParameterOrder(loaded->model_config)) {
      resume.optimizer.push_back({static_cast<double>(loaded->state.step),
                                  *loaded->optimizer->Find("exp_avg." + name),
                                  *loaded->optimizer->Find("exp_avg_sq." + name)});
    }
    MF_CHECK_OK(WriteResumePth(folder_ / "pretrain_32_resume.pth", resume, DType::kF32).status());
    SetSource(folder_ / "pretrain_32_resume.pth");
  }

  const TestFolder folder_;
  v1::StartTraining start_;
  Trained base_;
};

TEST_F(InitFromTest, AFolderAFileAndAPthGiveTheSameStart) {
  SetSource(base_.folder);
  const Trained folder = Train(start_, 2, "folder", folder_);
  EXPECT_LT(folder.rank0.steps[0].loss(), base_.rank0.steps[0].loss() - 1);
  EXPECT_TRUE(Logged(folder.rank0, "20 tensors with ")) << folder.rank0.logs[0].text();

  SetSource(base_.folder + "/model.safetensors");
  EXPECT_TRUE(Train(start_, 1, "file", folder_).SameBits(folder));

  const auto model = OpenModelFolder(base_.folder);
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<TensorView> tensors(model->stored->tensors().begin(), model->stored->tensors().end());
  tensors.push_back(*model->Find("lm_head.weight"));
  tensors.back().name = "lm_head.weight";
  for (TensorView& tensor : tensors) tensor.name = "module." + tensor.name;
  ASSERT_TRUE(WriteStateDictPth(folder_ / "weights.pth", tensors, DType::kF32).ok());
  SetSource(folder_ / "weights.pth");
  const Trained pth = Train(start_, 1, "pth", folder_);
  EXPECT_TRUE(pth.SameBits(folder));
  EXPECT_TRUE(Logged(pth.rank0, "not needed: lm_head.weight"));

  ASSERT_TRUE(WriteStateDictPth(folder_ / "half.pth", tensors, DType::kF16).ok());
  SetSource(folder_ / "half.pth");
  const Trained half = Train(start_, 1, "half", folder_);
  EXPECT_NEAR(half.rank0.steps[0].loss(), folder.rank0.steps[0].loss(), 1e-2);
}

TEST_F(InitFromTest, ListsAllThatDoesNotFit) {
  SetSource(base_.folder + "/model.safetensors");
  v1::ModelSpec& model = *start_.mutable_spec()->mutable_model();
  model.set_num_hidden_layers(3);
  std::string why = WhyRefused();
  EXPECT_THAT(why, HasSubstr("9 missing: model.layers.2.input_layernorm.weight, "));
  EXPECT_THAT(why, HasSubstr("model.layers.2.self_attn.v_proj.weight"));
  model.set_num_hidden_layers(1);
  EXPECT_THAT(WhyRefused(), HasSubstr("9 unexpected: model.layers.1.input_layernorm.weight, "));
  model.set_num_hidden_layers(2);
  model.set_intermediate_size(32);
  why = WhyRefused();
  EXPECT_THAT(why, HasSubstr("6 of a wrong shape or dtype: "));
  EXPECT_THAT(why, HasSubstr("model.layers.1.mlp.down_proj.weight is "));
  model.clear_intermediate_size();
  model.set_rope_theta(5e5);
  SetSource(base_.folder);
  EXPECT_THAT(WhyRefused(), HasSubstr("rope_theta is 1e+06 in the folder and 500000"));
}

// A copy of the base that is no checkpoint, to be changed.
class ChangedFolderTest : public InitFromTest {
 protected:
  ChangedFolderTest() : copy_(folder_ / "copy") {
    std::filesystem::create_directory(copy_);
    for (const char* name :
         {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
      std::filesystem::copy(base_.folder + "/" + name, copy_);
    }
    SetSource(copy_);
  }

  void Change(const std::string& file, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json json = nlohmann::json::parse(ReadAll(copy_ + "/" + file));
    change(json);
    std::ofstream(copy_ + "/" + file) << json.dump();
  }

  const std::string copy_;
};

TEST_F(ChangedFolderTest, RefusesRopeThatTheJobDoesNotHave) {
  Change("config.json", [](nlohmann::json& config) {
    config["rope_scaling"] = {{"rope_type", "yarn"},
                              {"factor", 4.0},
                              {"original_max_position_embeddings", 2048},
                              {"attention_factor", 1.0}};
  });
  EXPECT_THAT(WhyRefused(),
              HasSubstr("rope_scaling is set in the folder, and a job trains without"));
}

TEST_F(ChangedFolderTest, SaysInAWordWhyTheShapesDiffer) {
  start_.mutable_spec()->mutable_model()->set_hidden_size(48);
  start_.mutable_spec()->mutable_model()->set_rms_norm_eps(1e-6);
  const std::string why = WhyRefused();
  EXPECT_THAT(why, HasSubstr("job's model: hidden_size is 32 in the folder and 48 in the job's"));
  EXPECT_THAT(why, HasSubstr("rms_norm_eps is 1e-05 in the folder and 1e-06 in the job's model"));
}

// Same shapes, another meaning of every row of the embedding.
TEST_F(ChangedFolderTest, RefusesWeightsOfAnotherVocabulary) {
  Change("tokenizer.json", [](nlohmann::json& tokenizer) {
    nlohmann::json& vocab = tokenizer["model"]["vocab"];
    std::string first, second;
    for (const auto& [token, id] : vocab.items()) {
      if (id == 6398) first = token;
      if (id == 6399) second = token;
    }
    vocab[first] = 6399;
    vocab[second] = 6398;
  });
  EXPECT_THAT(WhyRefused(), HasSubstr("has another vocabulary than the job: id 6398 is '"));
  SetSource(copy_ + "/model.safetensors");
  EXPECT_GT(Train(start_, 1, "alone", folder_).rank0.steps.size(), 0u);
}

TEST_F(ChangedFolderTest, RefusesToDropAHeadOfItsOwn) {
  const auto model = OpenModelFolder(base_.folder);
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<TensorView> tensors(model->stored->tensors().begin(), model->stored->tensors().end());
  std::vector<float> head(static_cast<size_t>(6400 * 32), 0.5f);
  tensors.push_back(*model->Find("lm_head.weight"));
  tensors.back().name = "lm_head.weight";
  tensors.back().data = head.data();
  ASSERT_TRUE(WriteStateDictPth(folder_ / "untied.pth", tensors, DType::kF32).ok());
  SetSource(folder_ / "untied.pth");
  EXPECT_THAT(WhyRefused(), HasSubstr("set model.tie_word_embeddings to false"));
}

TEST_F(InitFromTest, RefusesADamagedCheckpointAndNoFileAtAll) {
  SetSource(folder_ / "none.pth");
  EXPECT_THAT(WhyRefused(), HasSubstr("none.pth"));
  SetSource(base_.folder);
  {
    std::fstream file(base_.folder + "/model.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100'000);
    file.put('\x5a');
    file.put('\xa5');
  }
  EXPECT_THAT(WhyRefused(), HasSubstr("model.safetensors"));
}

TEST_F(InitFromTest, AResumeFileGoesOnWhereTheReferenceStood) {
  // 6 steps an epoch of 4 microbatches: step 8 is the second of epoch 2.
  WriteResume(1, /*epoch=*/1, /*step=*/4, /*world_size=*/2);
  const Trained resumed = Train(start_, 2, "resumed", folder_);
  EXPECT_EQ(resumed.rank0.steps.front().step(), 9);
  EXPECT_TRUE(resumed.SameBits(base_));
  EXPECT_TRUE(Logged(resumed.rank0, "going on from optimizer step 8 (epoch 2, 4 microbatches"));

  WriteResume(1, 1, 5, 2);
  const Trained between = Train(start_, 1, "between", folder_);
  EXPECT_TRUE(between.SameBits(base_));
  EXPECT_TRUE(Logged(between.rank0, "2 microbatches after optimizer step 8 never reached"));
}

TEST_F(InitFromTest, AResumeFileBeyondTheJobIsRefused) {
  WriteResume(1, 1, 30, 1);
  EXPECT_THAT(WhyRefused(), HasSubstr("microbatch 30 (step 30 of 1 ranks) of an epoch, of which"));
  WriteResume(1, 2, 0, 1);
  EXPECT_THAT(WhyRefused(), HasSubstr("optimizer step 12, the job ends at 12"));
}

TEST_F(InitFromTest, TheEndOfAnEpochIsTheStartOfTheNext) {
  // 22 microbatches an epoch: on 3 ranks the reference pads the last round.
  WriteResume(1, 0, 8, 3);
  const Trained resumed = Train(start_, 1, "resumed", folder_);
  EXPECT_EQ(resumed.rank0.steps.front().step(), 7);
}

}  // namespace
}  // namespace mindforge
