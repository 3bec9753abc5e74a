#include "worker/tokenizer/bpe_trainer.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/chat_template.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TrainedTokenizer Train(BpeTrainerOptions options, const std::vector<std::string>& texts) {
  auto trainer = BpeTrainer::Create(std::move(options));
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  for (const std::string& text : texts) (*trainer)->AddText(text);
  auto trained = (*trainer)->Train();
  EXPECT_TRUE(trained.ok()) << trained.status();
  return std::move(trained).value();
}

TEST(BpeTrainer, MergesTheMostFrequentPairAndTheSmallerIdsOnTies) {
  // hug x10, pug x5, pun x12, bun x4, hugs x5: the merges of the well-known example.
  std::vector<std::string> texts;
  const std::pair<const char*, int> words[] = {
      {"hug", 10}, {"pug", 5}, {"pun", 12}, {"bun", 4}, {"hugs", 5}};
  for (const auto& [word, count] : words) {
    for (int i = 0; i < count; ++i) texts.push_back(word);
  }
  const auto trained = Train({.vocab_size = 256 + 3 + 3}, texts);
  const auto json = nlohmann::json::parse(trained.tokenizer_json);
  EXPECT_EQ(json["model"]["merges"], nlohmann::json::parse(R"([["u","g"],["u","n"],["h","ug"]])"));
  EXPECT_EQ(json["model"]["vocab"]["hug"], 261);
  EXPECT_EQ(trained.vocab_size, 262);
}

TEST(BpeTrainer, MakesATokenizerThatLoadsAndRoundTrips) {
  const std::string text = "床前明月光，疑是地上霜。\nIt's the moon's light; isn't it? 123";
  const auto trained = Train({.vocab_size = 300}, {text, text, "unrelated words"});
  const auto tokenizer = Tokenizer::FromJson(trained.tokenizer_json, trained.tokenizer_config_json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(text)), text);
  EXPECT_LT((*tokenizer)->Encode(text).size(), text.size());
  EXPECT_EQ((*tokenizer)->vocab_size(), trained.vocab_size);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  EXPECT_EQ((*tokenizer)->pad_id(), 0);
  EXPECT_TRUE(ChatTemplate::Recognise((*tokenizer)->chat_templates().at("default")).ok());
}

TEST(BpeTrainer, StopsWhenNothingIsLeftToMerge) {
  const auto trained = Train({.vocab_size = 1000}, {"ab"});
  EXPECT_EQ(trained.vocab_size, 260);
  EXPECT_EQ(Train({.vocab_size = 1000, .min_frequency = 2}, {"ab"}).vocab_size, 259);
}

TEST(BpeTrainer, IsTheSameWhateverTheOrderOfTexts) {
  EXPECT_EQ(Train({.vocab_size = 290}, {"one two three", "four five", "two"}).tokenizer_json,
            Train({.vocab_size = 290}, {"two", "four five", "one two three"}).tokenizer_json);
}

TEST(BpeTrainer, RefusesWhatCannotBe) {
  const auto message = [](BpeTrainerOptions options) {
    const auto trainer = BpeTrainer::Create(std::move(options));
    EXPECT_EQ(trainer.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(trainer.status().message());
  };
  EXPECT_THAT(message({.vocab_size = 258}), HasSubstr("259"));
  EXPECT_TRUE(BpeTrainer::Create({.vocab_size = 259}).ok());
  EXPECT_THAT(message({.vocab_size = 1'000'001}), HasSubstr("1000000"));
  EXPECT_THAT(message({.special_tokens = {"a", "a"}}), HasSubstr("once"));
  EXPECT_THAT(message({.special_tokens = {""}}), HasSubstr("empty"));
  EXPECT_THAT(message({.min_frequency = -1}), HasSubstr("min_frequency"));
  auto trainer = BpeTrainer::Create({});
  ASSERT_TRUE(trainer.ok());
  (*trainer)->AddText("");
  EXPECT_EQ((*trainer)->Train().status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace mindforge
