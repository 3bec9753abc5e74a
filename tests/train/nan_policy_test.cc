// Steps whose loss is not finite, in real trainer processes: stop, skip, rollback, and that what
// remains has the same bits at every world size and after a restart amid it. One text of the corpus
// has a token of its own whose embedding is NaN, so the step that it falls into, once an epoch, is
// bad and no other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "nlohmann/json.hpp"
#include "tests/train/trained.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

constexpr char kBadText[] = "7777";

// Overwrites the embedding of every token of kBadText in a model.safetensors.
void PoisonEmbeddings(const std::string& path) {
  const auto tokenizer = Tokenizer::Load(TestTokenizer());
  MF_CHECK_OK(tokenizer.status());
  std::string file = ReadAll(path);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const auto header = nlohmann::json::parse(file.substr(8, header_bytes));
  const auto& embedding = header.at("model.embed_tokens.weight");
  const auto hidden = embedding.at("shape").at(1).get<size_t>();
  char* data = file.data() + 8 + header_bytes + embedding.at("data_offsets").at(0).get<size_t>();
  const std::vector<float> bad(hidden, std::numeric_limits<float>::quiet_NaN());
  for (const int32_t id : (*tokenizer)->Encode(kBadText)) {
    std::memcpy(data + static_cast<size_t>(id) * hidden * sizeof(float), bad.data(),
                hidden * sizeof(float));
  }
  std::ofstream(path, std::ios::binary) << file;
}

class NanPolicyTest : public ::testing::Test {
 protected:
  NanPolicyTest() : start_(TinyJob(folder_)) {
    std::ofstream(folder_ / "data.jsonl", std::ios::app) << "{\"text\": \"" << kBadText << "\"}\n";
    start_.mutable_spec()->mutable_model()->set_tie_word_embeddings(false);
    start_.mutable_spec()->mutable_training()->set_max_steps(1);
    const Trained base = Train(start_, 1, "base", folder_);
    std::filesystem::copy(base.folder, folder_ / "poisoned");
    // No checkpoint any more, whose content would have to be what was written.
    std::filesystem::remove(folder_ / "poisoned/MANIFEST.json");
    std::filesystem::remove(folder_ / "poisoned/state.json");
    PoisonEmbeddings(folder_ / "poisoned/model.safetensors");
    start_.mutable_spec()->mutable_training()->clear_max_steps();
    start_.mutable_spec()->mutable_training()->set_init_from(folder_ / "poisoned");
    start_.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  }

  void SetPolicy(const std::string& policy) {
    start_.mutable_spec()->mutable_training()->set_nan_policy(policy);
  }

  static std::vector<int64_t> BadSteps(const Trained& trained) {
    std::vector<int64_t> steps;
    for (const v1::ProgressRecord& record : trained.rank0.steps) {
      if (record.skipped()) steps.push_back(record.step());
    }
    return steps;
  }

  const TestFolder folder_;
  v1::StartTraining start_;
};

TEST_F(NanPolicyTest, StopsByDefaultAndSaysWhy) {
  TrainerGroup group(start_, 2);
  for (const int rank : {0, 1}) {
    EXPECT_EQ(group.rank(rank).Wait().code, 1);
    const TrainerReports reports = group.rank(rank).reports();
    ASSERT_TRUE(reports.failure.has_value());
    EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_USER);
    EXPECT_THAT(reports.failure->message(), HasSubstr("the loss is nan at step "));
    EXPECT_THAT(reports.failure->message(), HasSubstr("learning rate of 0.0085"));
    EXPECT_THAT(reports.failure->message(), HasSubstr("checkpoint"));
  }
}

TEST_F(NanPolicyTest, SkippedStepsChangeNothingAtAnyWorldSizeAndAcrossAPause) {
  SetPolicy("skip");
  const Trained alone = Train(start_, 1, "w1", folder_);
  ASSERT_EQ(BadSteps(alone).size(), 2u) << "one an epoch";
  EXPECT_EQ(alone.rank0.steps.back().skipped_steps(), 2);
  EXPECT_TRUE(Logged(alone.rank0, "skipped:2"));
  for (const int world_size : {2, 3, 4}) {
    const Trained shared = Train(start_, world_size, absl::StrCat("w", world_size), folder_);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
    EXPECT_EQ(BadSteps(shared), BadSteps(alone));
  }
  start_.mutable_spec()->mutable_training()->set_epochs(20);
  const Trained longer = Train(start_, 1, "undisturbed", folder_);
  const Trained paused = TrainWithAPause(start_, 13, 3, "paused", folder_);
  EXPECT_TRUE(paused.SameBits(longer));
  EXPECT_EQ(paused.rank0.steps.back().skipped_steps(), 20);
}

TEST_F(NanPolicyTest, Float16SkipsAnOverflowAndHalvesItsScaleAtAnyWorldSize) {
  start_.mutable_spec()->mutable_training()->set_dtype("float16");
  const Trained alone = Train(start_, 1, "w1", folder_);
  const std::vector<int64_t> bad = BadSteps(alone);
  ASSERT_EQ(bad.size(), 2u) << "the policy is to stop, but an overflow is not its business";
  EXPECT_EQ(alone.rank0.steps.front().loss_scale(), 65536);
  EXPECT_EQ(alone.rank0.steps.back().loss_scale(), 16384);
  for (const int world_size : {2, 3, 4}) {
    const Trained shared = Train(start_, world_size, absl::StrCat("w", world_size), folder_);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
    EXPECT_EQ(BadSteps(shared), bad);
  }
  const auto state = nlohmann::json::parse(ReadAll(alone.folder + "/state.json"));
  EXPECT_EQ(state.at("counters").at("loss_scale"), 16384);
  EXPECT_EQ(state.at("counters").at("updates"), 10);
  EXPECT_EQ(state.at("counters").at("skipped_steps"), 2);
}

TEST_F(NanPolicyTest, RollsBackToTheNewestCheckpointAtAnyWorldSize) {
  SetPolicy("rollback");
  const Trained alone = Train(start_, 1, "w1", folder_);
  const std::vector<int64_t> bad = BadSteps(alone);
  ASSERT_EQ(bad.size(), 2u);
  int64_t left_out = 0;
  for (const int64_t step : bad) left_out += (step - 1) % 2 + 1;
  EXPECT_EQ(alone.rank0.steps.back().skipped_steps(), left_out);
  EXPECT_TRUE(Logged(alone.rank0, "rolled back to "));
  for (const int world_size : {2, 3, 4}) {
    const Trained shared = Train(start_, world_size, absl::StrCat("w", world_size), folder_);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
    EXPECT_EQ(BadSteps(shared), bad);
  }
}

TEST_F(NanPolicyTest, ARunThatIsKilledOrPausedAfterARollbackEndsAsTheUndisturbedOne) {
  SetPolicy("rollback");
  start_.mutable_spec()->mutable_training()->set_epochs(20);
  start_.mutable_spec()->mutable_checkpoint()->set_every_steps(5);
  const Trained undisturbed = Train(start_, 1, "undisturbed", folder_);
  const int64_t first_bad = BadSteps(undisturbed)[0];
  EXPECT_TRUE(TrainWithAPause(start_, first_bad + 1, 3, "paused", folder_).SameBits(undisturbed));

  start_.set_checkpoint_dir(folder_ / "killed");
  TrainerGroup first(start_, 2);
  ASSERT_TRUE(first.rank(0).WaitUntil(
      [&](const TrainerReports& r) { return AtStep(r, first_bad) && !r.checkpoints.empty(); }));
  const TrainerReports before = first.rank(0).reports();
  first.rank(0).Kill(SIGKILL);
  first.rank(1).Kill(SIGKILL);
  first.WaitAll();
  *start_.add_resume_points() = PointOf(before.checkpoints.back());
  start_.set_generation(2);
  TrainerGroup second(start_, 3);
  ExpectAllFinished(second);
  EXPECT_TRUE(ResultOf(second).SameBits(undisturbed));
}

TEST_F(NanPolicyTest, GivesUpAfterThreeRollbacksWithoutANewCheckpoint) {
  SetPolicy("rollback");
  start_.mutable_spec()->mutable_training()->set_epochs(5);
  start_.mutable_spec()->mutable_checkpoint()->set_every_steps(0);
  TrainerGroup group(start_, 2);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const TrainerReports reports = group.rank(0).reports();
  ASSERT_TRUE(reports.failure.has_value());
  EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_USER);
  EXPECT_THAT(reports.failure->message(), HasSubstr("after 3 rollbacks"));
  EXPECT_THAT(reports.failure->message(), HasSubstr("no checkpoint was written yet"));
  EXPECT_EQ(group.rank(1).Wait().code, 1);
}

}  // namespace
}  // namespace mindforge
