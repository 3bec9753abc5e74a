// What a user can get wrong, as the trainer reports it: the kind, the field and a remedy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "tests/fakes/trainer_harness.h"
#include "tests/train/training_job.h"

namespace mindforge {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct BadJob {
  const char* name;
  const char* field;
  std::function<void(const TestFolder&, v1::StartTraining&)> spoil;
};

class BadJobTest : public ::testing::TestWithParam<BadJob> {};

TEST_P(BadJobTest, IsTheUsersFaultAndNamesTheField) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  GetParam().spoil(folder, start);
  TrainerGroup group(start, 1);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const TrainerReports reports = group.rank(0).reports();
  ASSERT_TRUE(reports.failure.has_value());
  EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_USER) << reports.failure->message();
  ASSERT_GE(reports.failure->problems_size(), 1) << reports.failure->message();
  EXPECT_EQ(reports.failure->problems(0).field(), GetParam().field)
      << reports.failure->ShortDebugString();
  EXPECT_NE(reports.failure->problems(0).description(), "");
}

std::vector<BadJob> BadJobs() {
  return {
      {"NoData", "data.path",
       [](const TestFolder& folder, v1::StartTraining& start) {
         start.mutable_spec()->mutable_data()->set_path(folder / "none.jsonl");
       }},
      {"BrokenLine", "data.path",
       [](const TestFolder& folder, v1::StartTraining& start) {
         std::ofstream(folder / "data.jsonl", std::ios::app) << "{\"text\": \"unclosed\n";
       }},
      {"BrokenLineInAnotherFile", "data.more_paths[1]",
       [](const TestFolder& folder, v1::StartTraining& start) {
         std::ofstream(folder / "more.jsonl") << "{\"text\": \"fine one\"}\n";
         std::ofstream(folder / "broken.jsonl") << "{\"text\": \"unclosed\n";
         start.mutable_spec()->mutable_data()->add_more_paths(folder / "more.jsonl");
         start.mutable_spec()->mutable_data()->add_more_paths(folder / "broken.jsonl");
       }},
      {"NoPlaceForTheCache", "data.cache_dir",
       [](const TestFolder& folder, v1::StartTraining& start) {
         std::ofstream(folder / "file") << "x";
         start.mutable_spec()->mutable_data()->set_cache_dir(folder / "file");
       }},
      {"NoTokenizer", "data.tokenizer",
       [](const TestFolder& folder, v1::StartTraining& start) {
         start.mutable_spec()->mutable_data()->set_tokenizer(folder / "none");
       }},
      {"TruncatedTokenizer", "data.tokenizer",
       [](const TestFolder& folder, v1::StartTraining& start) {
         std::ofstream(folder / "tokenizer.json") << "{\"version\": \"1.0\", \"mod";
         start.mutable_spec()->mutable_data()->set_tokenizer(folder / "tokenizer.json");
       }},
      {"SmallVocabulary", "model.vocab_size",
       [](const TestFolder&, v1::StartTraining& start) {
         start.mutable_spec()->mutable_model()->set_vocab_size(100);
       }},
      {"RowsBeyondTheModel", "data.max_seq_len",
       [](const TestFolder&, v1::StartTraining& start) {
         start.mutable_spec()->mutable_model()->set_max_position_embeddings(8);
       }},
      {"HeadsDoNotDivide", "model.num_key_value_heads",
       [](const TestFolder&, v1::StartTraining& start) {
         start.mutable_spec()->mutable_model()->set_num_attention_heads(4);
         start.mutable_spec()->mutable_model()->set_num_key_value_heads(3);
       }},
      {"Dtype", "training.dtype",
       [](const TestFolder&, v1::StartTraining& start) {
         start.mutable_spec()->mutable_training()->set_dtype("float8");
       }},
      {"InitFromNothing", "training.init_from",
       [](const TestFolder& folder, v1::StartTraining& start) {
         start.mutable_spec()->mutable_training()->set_init_from(folder / "none");
       }},
      {"Diverges", "training.learning_rate",
       [](const TestFolder&, v1::StartTraining& start) {
         start.mutable_spec()->mutable_training()->set_learning_rate(1e38);
         start.mutable_spec()->mutable_training()->set_grad_clip(0);
       }},
      {"CheckpointDirIsAFile", "checkpoint.dir",
       [](const TestFolder& folder, v1::StartTraining& start) {
         std::ofstream(folder / "file") << "x";
         start.set_checkpoint_dir(folder / "file");
       }},
  };
}

// One that joined, or starts again, where a mount is missing: the job is not at fault.
TEST(AJobThatHasBegun, IsNotEndedByAWorkerThatDoesNotSeeItsData) {
  const TestFolder folder;
  const v1::StartTraining good = TinyJob(folder);
  TrainerGroup first(good, 1);
  ASSERT_EQ(first.rank(0).Wait().code, 0);
  const std::string digest = first.rank(0).reports().states.back().dataset_digest();
  const auto outcome = [&](const std::function<void(v1::StartTraining&)>& spoil) {
    v1::StartTraining start = good;
    start.set_dataset_digest(digest);
    start.set_checkpoint_dir(folder / "other");
    spoil(start);
    TrainerGroup group(start, 1);
    EXPECT_EQ(group.rank(0).Wait().code, 1);
    return group.rank(0).reports().failure.value_or(v1::TrainerFailure());
  };
  WriteCorpus(folder / "stale.jsonl", 42);
  const std::pair<const char*, std::function<void(v1::StartTraining&)>> cases[] = {
      {"none.jsonl is not there",
       [&](v1::StartTraining& start) {
         start.mutable_spec()->mutable_data()->set_path(folder / "none.jsonl");
       }},
      {"has changed since the job began",
       [&](v1::StartTraining& start) {
         start.mutable_spec()->mutable_data()->set_path(folder / "stale.jsonl");
       }},
      {"data.tokenizer",
       [&](v1::StartTraining& start) {
         start.mutable_spec()->mutable_data()->set_tokenizer(folder / "none");
       }},
      {"model.vocab_size: 100 is less than the 6400 tokens of the tokenizer",
       [](v1::StartTraining& start) {
         start.mutable_spec()->mutable_model()->set_vocab_size(100);
       }},
      {"training.init_from",
       [&](v1::StartTraining& start) {
         start.mutable_spec()->mutable_training()->set_init_from(folder / "none");
       }},
  };
  for (const auto& [says, spoil] : cases) {
    const auto failure = outcome(spoil);
    EXPECT_EQ(failure.kind(), v1::FAILURE_KIND_WORKER) << failure.message();
    EXPECT_THAT(failure.message(), AllOf(HasSubstr(says), HasSubstr("the job goes on")));
  }
}

// The build that it began with learned such bytes as characters: other rows would be another job.
TEST(AJobThatHasBegun, WaitsForItsBuildWhereThisOneRefusesLinesOfItsData) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  std::ofstream(folder / "data.jsonl", std::ios::app) << "{\"text\": \"caf\xE9 au lait\"}\n";
  start.mutable_spec()->mutable_data()->set_malformed_lines("skip");  // which tells its digest
  TrainerGroup skips(start, 1);
  ASSERT_EQ(skips.rank(0).Wait().code, 0);
  start.set_dataset_digest(skips.rank(0).reports().states.back().dataset_digest());
  start.mutable_spec()->mutable_data()->clear_malformed_lines();
  start.set_checkpoint_dir(folder / "other");
  TrainerGroup refuses(start, 1);
  EXPECT_EQ(refuses.rank(0).Wait().code, 1);
  const auto failure = refuses.rank(0).reports().failure.value_or(v1::TrainerFailure());
  EXPECT_EQ(failure.kind(), v1::FAILURE_KIND_WORKER) << failure.message();
  EXPECT_THAT(failure.message(), AllOf(HasSubstr("line 44: not UTF-8"),
                                       HasSubstr("run the earlier build, and the job goes on")));
}

// Storage that fails for a moment is neither the job's fault nor the device's.
TEST(AJobThatBegins, WaitsWhereItsDataCannotBeRead) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  std::filesystem::create_directory(folder / "set");
  WriteCorpus(folder / "set/a.jsonl", 43);
  std::filesystem::create_symlink(folder / "set/b.jsonl", folder / "set/b.jsonl");  // ELOOP
  start.mutable_spec()->mutable_data()->set_path(folder / "set");
  TrainerGroup group(start, 1);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const auto failure = group.rank(0).reports().failure.value_or(v1::TrainerFailure());
  EXPECT_EQ(failure.kind(), v1::FAILURE_KIND_WORKER) << failure.message();
  EXPECT_THAT(failure.message(), HasSubstr("set/b.jsonl"));
}

TEST(MalformedLines, AreSkippedAndCountedWhenTheJobSaysSo) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  std::ofstream(folder / "data.jsonl", std::ios::app) << "{\"text\": \"unclosed\n{}\n";
  start.mutable_spec()->mutable_data()->set_malformed_lines("skip");
  TrainerGroup group(start, 1);
  ASSERT_EQ(group.rank(0).Wait().code, 0);
  EXPECT_EQ(group.rank(0).reports().states.back().skipped_lines(), 2);
}

INSTANTIATE_TEST_SUITE_P(Trainer, BadJobTest, ::testing::ValuesIn(BadJobs()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(InitFrom, TakesAFolderOfTheSameShapeAndRefusesAnother) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  TrainerGroup first(start, 1);
  ASSERT_EQ(first.rank(0).Wait().code, 0);
  const TrainerReports trained = first.rank(0).reports();
  ASSERT_FALSE(trained.checkpoints.empty());

  start.mutable_spec()->mutable_training()->set_init_from(trained.checkpoints.back().path());
  start.set_checkpoint_dir(folder / "second");
  TrainerGroup second(start, 2);
  ASSERT_EQ(second.rank(0).Wait().code, 0);
  EXPECT_LT(second.rank(0).reports().steps.front().loss(), trained.steps.front().loss() - 1);

  start.mutable_spec()->mutable_model()->set_num_hidden_layers(3);
  start.set_checkpoint_dir(folder / "third");
  TrainerGroup third(start, 1);
  EXPECT_EQ(third.rank(0).Wait().code, 1);
  const TrainerReports refused = third.rank(0).reports();
  ASSERT_TRUE(refused.failure.has_value());
  EXPECT_EQ(refused.failure->kind(), v1::FAILURE_KIND_USER);
  EXPECT_THAT(refused.failure->message(),
              AllOf(HasSubstr("9 missing: "), HasSubstr("model.layers.2.self_attn.q_proj.weight")));
}

}  // namespace
}  // namespace mindforge
