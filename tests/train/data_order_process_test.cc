// Epochs and held-out rows in real trainer processes: the same at every world size, whatever was
// stopped in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/train/trained.h"

namespace mindforge {
namespace {

using ::testing::SizeIs;

TEST(Epochs, APauseAmidTheSecondEpochChangesNothing) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  // 6 steps an epoch, the last of each partial.
  start.mutable_spec()->mutable_training()->set_epochs(60);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(9);
  const Trained undisturbed = Train(start, 1, "undisturbed", folder);
  const Trained paused = TrainWithAPause(start, 8, 3, "paused", folder);
  EXPECT_TRUE(paused.SameBits(undisturbed));
  const int64_t resumed_from = paused.rank0.states.back().resumed_from();
  EXPECT_GE(resumed_from, 8);
}

TEST(Epochs, EveryEpochConsumesAllSequencesInAnotherOrder) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_training()->set_epochs(3);
  start.mutable_spec()->mutable_training()->set_learning_rate(1e-12);  // the loss tells the data
  const Trained trained = Train(start, 2, "job", folder);
  ASSERT_THAT(trained.rank0.steps, SizeIs(18));
  std::vector<int64_t> tokens(3), sequences(3);
  std::vector<std::vector<double>> losses(3);
  for (size_t i = 0; i < 18; ++i) {
    const v1::ProgressRecord& record = trained.rank0.steps[i];
    tokens[i / 6] += record.tokens();
    for (const int32_t of_rank : record.sequences_by_rank()) sequences[i / 6] += of_rank;
    losses[i / 6].push_back(record.loss());
  }
  EXPECT_THAT(sequences, testing::Each(43));
  EXPECT_THAT(tokens, testing::Each(tokens[0]));
  EXPECT_NE(losses[0], losses[1]);
  EXPECT_NE(losses[1], losses[2]);
  const auto last_steps = [&](size_t epoch) {
    const v1::ProgressRecord& last = trained.rank0.steps[epoch * 6 + 5];
    return last.sequences_by_rank(0) + last.sequences_by_rank(1);
  };
  for (size_t epoch = 0; epoch < 3; ++epoch) EXPECT_EQ(last_steps(epoch), 3);
}

// Builds that did not look into tokenizer_config.json made their rows with MiniMind's ids.
TEST(Rows, OfAJobThatGoesOnKeepTheIdsThatItBeganWith) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_data()->set_packing(true);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(2);
  std::filesystem::copy(TestTokenizer(), folder / "tokenizer");
  start.mutable_spec()->mutable_data()->set_tokenizer(folder / "tokenizer");
  const Trained whole = Train(start, 1, "whole", folder);
  const std::string config = folder / "tokenizer/tokenizer_config.json";
  nlohmann::json other = nlohmann::json::parse(ReadAll(config));
  other["eos_token"] = "<|im_start|>";
  other["pad_token"] = "<|im_end|>";
  std::ofstream(config) << other;
  *start.add_resume_points() = PointOf(whole.rank0.checkpoints[0]);
  start.set_dataset_digest(whole.rank0.states.back().dataset_digest());
  const Trained resumed = Train(start, 1, "resumed", folder);
  EXPECT_EQ(resumed.rank0.steps.front().step(), 3);
  EXPECT_TRUE(resumed.SameBits(whole));
}

TEST(Validation, HasTheSameBitsAtEveryWorldSizeAndIsKept) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_data()->set_validation_fraction(0.25);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(4);
  start.mutable_spec()->mutable_training()->set_epochs(3);
  const Trained alone = Train(start, 1, "w1", folder);
  std::vector<double> expected;
  for (const v1::ProgressRecord& record : alone.rank0.steps) {
    const bool due = record.step() % 4 == 0 || record.step() == record.total_steps();
    EXPECT_EQ(record.has_validation_loss(), due) << record.step();
    if (due) expected.push_back(record.validation_loss());
  }
  ASSERT_THAT(expected, SizeIs(3));  // 32 rows train: 4 steps an epoch
  EXPECT_LT(expected.back(), expected.front());
  EXPECT_TRUE(Logged(alone.rank0, "validation_loss:"));
  EXPECT_TRUE(Logged(alone.rank0, "32 sequences of 23 tokens an epoch, 11 held out"));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(alone.rank0.checkpoints[i].validation_loss(), expected[i]);
    const auto state =
        nlohmann::json::parse(ReadAll(alone.rank0.checkpoints[i].path() + "/state.json"));
    EXPECT_EQ(state.at("validation_loss").get<double>(), expected[i]);
  }
  for (const int world_size : {2, 3, 4}) {
    const Trained shared = Train(start, world_size, absl::StrCat("w", world_size), folder);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
    std::vector<double> losses;
    for (const v1::ProgressRecord& record : shared.rank0.steps) {
      if (record.has_validation_loss()) losses.push_back(record.validation_loss());
    }
    EXPECT_EQ(losses, expected) << world_size << " ranks";
  }
}

TEST(Validation, HeldOutRowsNeverTrain) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_training()->set_epochs(1);
  const Trained all = Train(start, 1, "all", folder);
  start.mutable_spec()->mutable_data()->set_validation_fraction(0.25);
  const Trained some = Train(start, 1, "some", folder);
  const auto sequences = [](const Trained& trained) {
    int64_t count = 0;
    for (const v1::ProgressRecord& record : trained.rank0.steps) {
      for (const int32_t of_rank : record.sequences_by_rank()) count += of_rank;
    }
    return count;
  };
  EXPECT_EQ(sequences(all), 43);
  EXPECT_EQ(sequences(some), 32);
}

}  // namespace
}  // namespace mindforge
