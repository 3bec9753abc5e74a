#include "worker/tokenizer/tokenizer.h"

#include <array>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/durable_file.h"
#include "common/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/bpe_model.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string TestData(const std::string& name) {
  return JoinPath(std::getenv("MINDFORGE_TEST_DATA"), name);
}

std::string ReadAll(const std::string& path) {
  const auto content = ReadFile(path, size_t{64} << 20);
  EXPECT_TRUE(content.ok()) << content.status();
  return content.value_or("");
}

const Tokenizer& MiniMind() {
  static const Tokenizer* const tokenizer = [] {
    auto loaded = Tokenizer::Load(TestData("tokenizer"));
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded->release();
  }();
  return *tokenizer;
}

nlohmann::json MiniMindJson() {
  static const std::string text = ReadAll(TestData("tokenizer/tokenizer.json"));
  return nlohmann::json::parse(text);
}

std::string LoadError(const nlohmann::json& json) {
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  EXPECT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

TEST(Tokenizer, GivesTheGoldenIdsAndDecodesThemBack) {
  const auto golden = nlohmann::json::parse(ReadAll(TestData("golden/tokenizer.json")));
  ASSERT_GE(golden.at("encode").size(), 20u);
  for (const auto& example : golden["encode"]) {
    const auto text = example["text"].get<std::string>();
    const auto ids = example["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(MiniMind().Encode(text), ids) << text;
    EXPECT_EQ(MiniMind().Decode(ids), text);
  }
}

TEST(Tokenizer, KnowsItsConfiguration) {
  EXPECT_EQ(MiniMind().vocab_size(), 6400);
  EXPECT_EQ(MiniMind().bos_id(), 1);
  EXPECT_EQ(MiniMind().eos_id(), 2);
  EXPECT_EQ(MiniMind().pad_id(), 0);
  EXPECT_EQ(MiniMind().digest().size(), 16u);
  EXPECT_THAT(MiniMind().chat_templates().at("default"), HasSubstr("You are a helpful assistant"));
  EXPECT_EQ(MiniMind().TokenToId("<|im_end|>"), 2);
  EXPECT_EQ(MiniMind().TokenToId("no such token"), std::nullopt);
  EXPECT_TRUE(MiniMind().IsSpecial(0));
  EXPECT_FALSE(MiniMind().IsSpecial(3));
}

TEST(Tokenizer, TakesTheLongestAddedTokenAtTheLeftmostPlace) {
  EXPECT_THAT(MiniMind().Encode("<|im_start|><|im_end|>"), ElementsAre(1, 2));
  auto json = MiniMindJson();
  auto longer = json["added_tokens"][2];
  longer["content"] = "<|im_end|>!";
  longer["id"] = 6400;
  json["added_tokens"].push_back(longer);
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("<|im_end|>!<|im_end|>"), ElementsAre(6400, 2));
  EXPECT_EQ((*tokenizer)->vocab_size(), 6401);
}

TEST(Tokenizer, StripsWhiteSpaceAroundTokensThatAskForIt) {
  auto json = MiniMindJson();
  json["added_tokens"][2]["lstrip"] = true;
  json["added_tokens"][1]["rstrip"] = true;
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode("a \n<|im_end|> b<|im_start|>\u3000c")),
            "a<|im_end|> b<|im_start|>c");
}

TEST(Tokenizer, SkipsSpecialTokensWhenAsked) {
  const auto ids = MiniMind().Encode("<|im_start|>user\nhi<|im_end|>");
  EXPECT_EQ(MiniMind().Decode(ids, {.skip_special_tokens = true}), "user\nhi");
  EXPECT_EQ(MiniMind().Decode(ids), "<|im_start|>user\nhi<|im_end|>");
}

TEST(Tokenizer, IgnoresIdsThatDoNotExist) {
  EXPECT_EQ(MiniMind().Decode({-1, 6400, 1 << 30}), "");
  EXPECT_EQ(MiniMind().TokenBytes(-1), "");
}

TEST(Tokenizer, ReplacesInvalidUtf8AsPythonDoes) {
  // b"...".decode("utf-8", errors="replace")
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFFz", "a\uFFFDz"},
      {"\xE4\xBD", "\uFFFD"},
      {"\xE4\xBDz", "\uFFFDz"},
      {"\xE4\xE4\xBD\xA0", "\uFFFD\u4F60"},
      {"\xC0\x80", "\uFFFD\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xF0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF1\x80\x80", "\uFFFD"},
      {"\x80\xBF", "\uFFFD\uFFFD"},
      {"\xF5", "\uFFFD"},
      {"", ""},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(SanitizeUtf8(bytes), text);
    EXPECT_EQ(MiniMind().Decode(MiniMind().Encode(bytes)), text);
    EXPECT_EQ(MiniMind().Encode(bytes), MiniMind().Encode(text));
  }
}

TEST(StreamingDecoder, NeverGivesPartOfACharacterAndLosesNothing) {
  std::mt19937 rng(7);
  std::uniform_int_distribution<int32_t> any_id(0, 6399);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(any_id(rng));
    const DecodeOptions options{.skip_special_tokens = round % 2 == 0};
    StreamingDecoder stream(MiniMind(), options);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = stream.Push(id);
      EXPECT_EQ(piece, SanitizeUtf8(piece));
      text += piece;
    }
    text += stream.Flush();
    EXPECT_EQ(text, MiniMind().Decode(ids, options));
  }
}

TEST(StreamingDecoder, WaitsForTheRestOfACharacter) {
  std::vector<int32_t> bytes;  // 😀 as four byte tokens
  for (const char* token : {"ð", "Ł", "ĺ", "Ģ"}) bytes.push_back(*MiniMind().TokenToId(token));
  StreamingDecoder stream(MiniMind());
  EXPECT_EQ(stream.Push(bytes[0]), "");
  EXPECT_EQ(stream.Push(bytes[1]), "");
  EXPECT_EQ(stream.Push(bytes[2]), "");
  EXPECT_EQ(stream.Push(bytes[3]), "😀");
  EXPECT_EQ(stream.Push(bytes[0]), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

// The rule in its plainest form: again and again the lowest rank, of equal ones the leftmost.
std::vector<int32_t> MergedByTheRule(const std::string& word, const std::vector<BpeMerge>& merges) {
  std::vector<int32_t> ids(word.begin(), word.end());
  while (true) {
    size_t best_rank = merges.size();
    size_t best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left != ids[i] || merges[rank].right != ids[i + 1]) continue;
        best_rank = rank;
        best = i;
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[best] = merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

// Long words are merged with a heap, short ones without.
TEST(BpeModel, MergesShortAndLongWordsByTheRule) {
  std::mt19937 random(7);
  std::array<int32_t, 256> bytes;
  for (int32_t i = 0; i < 256; ++i) bytes[static_cast<size_t>(i)] = i;
  std::vector<BpeMerge> merges;
  std::vector<int32_t> symbols = {'a', 'b', 'c'};
  std::set<std::pair<int32_t, int32_t>> pairs;
  for (int32_t id = 256; id < 300; ++id) {
    const int32_t left = symbols[random() % symbols.size()];
    const int32_t right = symbols[random() % symbols.size()];
    if (!pairs.emplace(left, right).second) continue;
    merges.push_back({left, right, id});
    symbols.push_back(id);
  }
  const BpeModel model(bytes, merges);
  for (const size_t length : {1, 2, 3, 10, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 300}) {
    for (int i = 0; i < 10; ++i) {
      std::string word;
      while (word.size() < length) word += static_cast<char>('a' + random() % 3);
      std::vector<int32_t> ids;
      model.EncodeWord(word, &ids);
      EXPECT_EQ(ids, MergedByTheRule(word, merges)) << word;
    }
  }
}

TEST(Tokenizer, IsSafeFromSeveralThreads) {
  const auto expected = MiniMind().Encode("the quick brown fox 你好世界");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        wrong[t] += MiniMind().Encode("the quick brown fox 你好世界") != expected;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(TokenizerLoad, SaysWhatIsMissing) {
  const auto missing = Tokenizer::Load("/no/such/folder");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()),
              testing::AllOf(HasSubstr("/no/such/folder/tokenizer.json"),
                             HasSubstr("mindforge tokenizer train")));
}

TEST(TokenizerLoad, SaysWhereATruncatedFileEnds) {
  const std::string whole = ReadAll(TestData("tokenizer/tokenizer.json"));
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1000}, whole.size() / 2}) {
    const auto tokenizer = Tokenizer::FromJson(whole.substr(0, size));
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("line"));
  }
}

TEST(TokenizerLoad, NamesEveryKindOfDefect) {
  struct Case {
    std::string patch;  // a JSON merge patch
    std::string says;
  };
  const Case cases[] = {
      {R"([])", "must be an object"},
      {R"({"model": null})", "`model`"},
      {R"({"model": {"type": "Unigram"}})", "Unigram"},
      {R"({"model": {"type": "WordPiece"}})", "WordPiece"},
      {R"({"model": {"vocab": null}})", "`model.vocab`"},
      {R"({"model": {"vocab": {"!": "three"}}})", "\"!\" must be an integer"},
      {R"({"model": {"vocab": {"!": -3}}})", "-3"},
      {R"({"model": {"vocab": {"!": 99999999999}}})", "99999999999"},
      {R"({"model": {"vocab": {"!": 4}}})", "id 4 stands for both"},
      {R"({"model": {"vocab": {"!": null}}})", "without the byte 33"},
      {R"({"model": {"merges": {}}})", "`model.merges`"},
      {R"({"model": {"merges": [["a"]]}})", "`model.merges[0]`"},
      {R"({"model": {"merges": ["abc"]}})", "`model.merges[0]`"},
      {R"({"model": {"merges": [["q", "Ġq"]]}})", "\"Ġq\""},
      {R"({"model": {"dropout": 0.1}})", "dropout"},
      {R"({"model": {"byte_fallback": true}})", "byte_fallback"},
      {R"({"model": {"ignore_merges": "yes"}})", "`ignore_merges` must be true or false"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "end_of_word_suffix"},
      {R"({"normalizer": {"type": "NFC"}})", "normalizer NFC"},
      {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}})",
       "normalizer NFC"},
      {R"({"normalizer": {"type": "Sequence"}})", "a list `normalizers`"},
      {R"({"pre_tokenizer": {"type": "Whitespace"}})", "pre_tokenizer Whitespace"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}})", "without pre_tokenizer"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"},
          {"type": "ByteLevel"}]}})",
       "a Sequence of more than one"},
      {R"({"pre_tokenizer": null})", "pre_tokenizer"},
      {R"({"post_processor": {"type": "TemplateProcessing"}})", "TemplateProcessing"},
      {R"({"decoder": null})", "decoder"},
      {R"({"decoder": {"type": "WordPiece"}})", "decoder WordPiece"},
      {R"({"added_tokens": 7})", "`added_tokens`"},
      {R"({"added_tokens": [{"id": 1}]})", "`added_tokens[0]`"},
      {R"({"added_tokens": [{"id": 9, "content": "<|im_end|>"}]})", "has id 9"},
      {R"({"added_tokens": [{"id": 7000, "content": "x y", "single_word": true}]})", "single_word"},
  };
  for (const Case& test : cases) {
    auto json = MiniMindJson();
    json.merge_patch(nlohmann::json::parse(test.patch));
    EXPECT_THAT(LoadError(json), HasSubstr(test.says)) << test.patch;
  }
}

TEST(TokenizerLoad, ReadsMergesOfOlderFiles) {
  auto json = MiniMindJson();
  for (auto& merge : json["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("Hello 你好"), MiniMind().Encode("Hello 你好"));
  EXPECT_THAT((*tokenizer)->Encode(""), IsEmpty());
}

TEST(TokenizerLoad, TakesASequenceOfNoneForNothingAndOfOneForThatOne) {
  using Json = nlohmann::json;
  Json json = MiniMindJson();
  const auto wrapped = [](const char* list, const std::vector<Json>& steps) {
    return Json{{"type", "Sequence"}, {list, Json(steps)}};
  };
  const std::vector<Json> none;
  const Json split = json["pre_tokenizer"];
  json["normalizer"] = wrapped("normalizers", none);
  const Json empty = wrapped("pretokenizers", none);
  const Json inner = wrapped("pretokenizers", std::vector<Json>(1, split));
  json["pre_tokenizer"] = wrapped("pretokenizers", std::vector<Json>{empty, inner});
  json["post_processor"] = wrapped("processors", none);
  const Json decoder = json["decoder"];
  json["decoder"] = wrapped("decoders", std::vector<Json>(1, decoder));
  const auto tokenizer = Tokenizer::FromJson(json.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode(" Hello 你好"), MiniMind().Encode(" Hello 你好"));
}

}  // namespace
}  // namespace mindforge
