// Jobs that learn from conversations, in real trainer processes: one result at every world size, a
// loss on the answers alone, and a result that says how it wants to be prompted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "nlohmann/json.hpp"
#include "tests/train/trained.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// 43 chats of one or two answers; each fifth begins with a system message, one has no answer.
void WriteChats(const std::string& path) {
  static constexpr const char* kWords[] = {"moon", "river", "letter", "winter", "lantern", "crane"};
  std::ofstream file(path);
  for (int line = 0; line < 43; ++line) {
    nlohmann::json chat = nlohmann::json::array();
    if (line % 5 == 0) chat.push_back({{"role", "system"}, {"content", "Answer in a word."}});
    for (int turn = 0; turn <= line % 2; ++turn) {
      const std::string word = kWords[(line + turn) % 6];
      chat.push_back({{"role", "user"}, {"content", "Say " + word + "!"}});
      if (line == 7) break;
      chat.push_back({{"role", "assistant"}, {"content", word + "."}});
    }
    file << nlohmann::json{{"conversations", chat}}.dump() << "\n";
  }
}

v1::StartTraining ChatJob(const TestFolder& folder) {
  WriteChats(folder / "data.jsonl");
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_data()->set_format("conversations");
  start.mutable_spec()->mutable_data()->set_max_seq_len(64);
  start.mutable_spec()->mutable_training()->set_schedule("cosine_from_lr");
  return start;
}

class ConversationsTest : public ::testing::TestWithParam<bool> {};

TEST_P(ConversationsTest, HaveTheSameBitsAtEveryWorldSizeFromAPretrainedModel) {
  const TestFolder folder;
  const Trained base = Train(TinyJob(folder), 1, "base", folder);
  std::filesystem::remove(folder / "data.jsonl");
  v1::StartTraining start = ChatJob(folder);
  v1::JobSpec& spec = *start.mutable_spec();
  spec.mutable_data()->set_packing(GetParam());
  spec.mutable_data()->set_validation_fraction(0.1);
  spec.mutable_data()->set_random_system_fraction(0.5);
  spec.mutable_training()->set_init_from(base.folder);
  const Trained alone = Train(start, 1, "w1", folder);
  ASSERT_FALSE(alone.rank0.steps.empty());
  EXPECT_LT(alone.rank0.steps.back().loss(), alone.rank0.steps.front().loss());
  EXPECT_TRUE(alone.rank0.checkpoints.back().has_validation_loss());
  for (const int world_size : {2, 3, 4}) {
    const Trained shared = Train(start, world_size, absl::StrCat("w", world_size), folder);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
  }
  const auto config = nlohmann::json::parse(ReadAll(alone.folder + "/config.json"));
  EXPECT_EQ(config.at("mindforge_prompt_style"), "chat");
  EXPECT_THAT(ReadAll(alone.folder + "/tokenizer_config.json"), HasSubstr("chat_template"));
}

INSTANTIATE_TEST_SUITE_P(Trainer, ConversationsTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Packed" : "Padded"; });

// The tokens of a step are those with a loss: the answers' and their ends', not the questions'.
TEST(Conversations, OnlyTheAnswersCount) {
  const TestFolder folder;
  v1::StartTraining start = ChatJob(folder);
  start.mutable_spec()->mutable_training()->set_epochs(1);
  std::ofstream(folder / "data.jsonl")
      << R"({"conversations": [{"role": "user", "content": "a long question of many words"}, )"
      << R"({"role": "assistant", "content": "a"}]})"
      << "\n"
      << R"({"conversations": [{"role": "user", "content": "nobody answers"}]})"
      << "\n";
  const Trained trained = Train(start, 1, "job", folder);
  ASSERT_THAT(trained.rank0.steps, SizeIs(1));
  // a, <|im_end|>, newline.
  EXPECT_EQ(trained.rank0.steps[0].tokens(), 3);
  EXPECT_TRUE(Logged(trained.rank0, "1 of 2 conversations has no answer within"));
}

struct BadChat {
  const char* name;
  const char* line;
  const char* says;
};

class BadChatTest : public ::testing::TestWithParam<BadChat> {};

TEST_P(BadChatTest, IsRefusedWithFileLineAndMessage) {
  const TestFolder folder;
  v1::StartTraining start = ChatJob(folder);
  std::ofstream(folder / "data.jsonl", std::ios::app) << GetParam().line << "\n";
  TrainerGroup group(start, 1);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const TrainerReports reports = group.rank(0).reports();
  ASSERT_TRUE(reports.failure.has_value());
  EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_USER);
  EXPECT_EQ(reports.failure->problems(0).field(), "data.path");
  EXPECT_THAT(reports.failure->message(),
              HasSubstr("data.jsonl: 1 line cannot be used: line 44: "));
  EXPECT_THAT(reports.failure->message(), HasSubstr(GetParam().says));
}

const BadChat kBadChats[] = {
    {"Role", R"({"conversations": [{"role": "user", "content": "a"}, {"role": "gpt"}]})",
     "conversations[1].role is 'gpt', must be system, user, assistant or tool"},
    {"Tools",
     R"({"conversations": [{"role": "system", "content": "s", "tools": [{"name": "f"}]}]})",
     "tools"},
};

INSTANTIATE_TEST_SUITE_P(Trainer, BadChatTest, ::testing::ValuesIn(kBadChats),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Conversations, MalformedOnesAreSkippedAndCountedWhenTheJobSaysSo) {
  const TestFolder folder;
  v1::StartTraining start = ChatJob(folder);
  std::ofstream(folder / "data.jsonl", std::ios::app) << R"({"conversations": []})"
                                                      << "\n"
                                                      << R"({"text": "a text"})"
                                                      << "\n";
  start.mutable_spec()->mutable_data()->set_malformed_lines("skip");
  TrainerGroup group(start, 1);
  ASSERT_EQ(group.rank(0).Wait().code, 0);
  EXPECT_EQ(group.rank(0).reports().states.back().skipped_lines(), 2);
}

TEST(Conversations, ThatNeverReachAnAnswerAreRefused) {
  const TestFolder folder;
  v1::StartTraining start = ChatJob(folder);
  start.mutable_spec()->mutable_data()->set_max_seq_len(8);
  TrainerGroup group(start, 1);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const TrainerReports reports = group.rank(0).reports();
  ASSERT_TRUE(reports.failure.has_value());
  EXPECT_EQ(reports.failure->problems(0).field(), "data.max_seq_len");
}

TEST(Conversations, NeedAChatTemplate) {
  const TestFolder folder;
  v1::StartTraining start = ChatJob(folder);
  std::filesystem::create_directory(folder / "tokenizer");
  std::filesystem::copy(TestTokenizer() + "/tokenizer.json", folder / "tokenizer");
  start.mutable_spec()->mutable_data()->set_tokenizer(folder / "tokenizer");
  TrainerGroup group(start, 1);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const TrainerReports reports = group.rank(0).reports();
  ASSERT_TRUE(reports.failure.has_value());
  EXPECT_EQ(reports.failure->problems(0).field(), "data.tokenizer");
  EXPECT_THAT(reports.failure->message(), HasSubstr("no chat template"));
}

}  // namespace
}  // namespace mindforge
