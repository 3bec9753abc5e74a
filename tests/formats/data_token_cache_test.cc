#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/minimind_tokenizer.h"
#include "tests/formats/temp_dir.h"
#include "worker/data/token_cache.h"
#include "worker/data/token_file.h"

namespace mindforge {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class TokenCacheTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<TokenCache>> Open(const std::string& content) {
    options_.paths = {dir_.Write("data.jsonl", content)};
    return TokenCache::Open(options_, MiniMind());
  }

  std::string Problem(const std::string& content) {
    const auto cache = Open(content);
    EXPECT_EQ(cache.status().code(), absl::StatusCode::kInvalidArgument) << cache.status();
    EXPECT_THAT(CacheFiles(".tokens"), testing::IsEmpty());
    EXPECT_THAT(CacheFiles(".tmp"), testing::IsEmpty());
    return std::string(cache.status().message());
  }

  std::vector<std::string> CacheFiles(const std::string& part) {
    std::vector<std::string> files;
    if (!fs::exists(options_.cache_dir)) return files;
    for (const auto& entry : fs::directory_iterator(options_.cache_dir)) {
      const std::string name = entry.path().filename();
      const bool fits = part == ".tokens" ? name.ends_with(part) : name.find(part) != name.npos;
      if (fits) files.push_back(entry.path());
    }
    return files;
  }

  TempDir dir_;
  TokenCacheOptions options_{.cache_dir = dir_.File("cache"), .threads = 2};
};

TEST_F(TokenCacheTest, HoldsTheIdsOfEachText) {
  const std::vector<std::string> texts = {"Hello, world!", "你好，世界", "a", "last \\\"one\\\""};
  std::string jsonl;
  for (const std::string& text : texts) jsonl += "{\"id\": 1, \"text\": \"" + text + "\"}\n\n";
  jsonl.pop_back();
  jsonl.pop_back();  // no newline at the end
  const auto cache = Open(jsonl);
  ASSERT_TRUE(cache.ok()) << cache.status();
  ASSERT_EQ((*cache)->documents(), 4);
  int64_t offset = 0;
  for (int64_t d = 0; d < 4; ++d) {
    const auto expected = MiniMind().Encode(d == 3 ? "last \"one\"" : texts[d]);
    std::vector<int64_t> ids((*cache)->DocumentLength(d));
    (*cache)->CopyIds(d, 0, absl::MakeSpan(ids));
    EXPECT_EQ(ids, std::vector<int64_t>(expected.begin(), expected.end()));
    EXPECT_EQ((*cache)->DocumentOffset(d), offset);
    offset += (*cache)->DocumentLength(d);
  }
  EXPECT_EQ((*cache)->tokens(), offset);
  EXPECT_EQ((*cache)->dataset_digest().size(), 16u);
}

TEST_F(TokenCacheTest, IsBuiltOnceAndAgainWhenTheDatasetChanges) {
  int built = 0;
  options_.progress = [&](const TokenCacheProgress& progress) {
    built += progress.phase == TokenCacheProgress::Phase::kTokenizing &&
             progress.bytes_done == progress.bytes_total;
  };
  const auto first = Open("{\"text\": \"one two\"}\n");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_GE(built, 1);
  built = 0;
  const auto again = Open("{\"text\": \"one two\"}\n");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(built, 0);
  EXPECT_EQ((*again)->dataset_digest(), (*first)->dataset_digest());
  const auto other = Open("{\"text\": \"one two three\"}\n");
  ASSERT_TRUE(other.ok());
  EXPECT_NE((*other)->dataset_digest(), (*first)->dataset_digest());
  EXPECT_EQ(CacheFiles(".tokens").size(), 2u);
}

TEST_F(TokenCacheTest, RebuildsADamagedCache) {
  const std::string jsonl = "{\"text\": \"one two three four\"}\n";
  ASSERT_TRUE(Open(jsonl).ok());
  const std::string file = CacheFiles(".tokens").at(0);
  const std::string sound = ReadBytes(file);
  for (size_t at = 0; at < sound.size(); at += 3) {
    std::string damaged = sound;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    if (at % 5 == 0) damaged.resize(at);
    WriteBytes(file, damaged);
    const auto cache = Open(jsonl);
    ASSERT_TRUE(cache.ok()) << at << cache.status();
    EXPECT_EQ((*cache)->documents(), 1);
    ASSERT_EQ(ReadBytes(file), sound) << at;
  }
}

TEST_F(TokenCacheTest, SaysAtOnceWhatMakingItAnewDoesNotCure) {
  const std::string jsonl = "{\"text\": \"one two three four\"}\n";
  ASSERT_TRUE(Open(jsonl).ok());
  const std::string file = CacheFiles(".tokens").at(0);
  fs::remove(file);
  fs::create_symlink(file, file);  // ELOOP
  int tokenized = 0;
  options_.progress = [&](const TokenCacheProgress& progress) {
    tokenized += progress.phase == TokenCacheProgress::Phase::kTokenizing;
  };
  const absl::Status status = Open(jsonl).status();
  ASSERT_EQ(GetViolations(status).size(), 1u) << status;
  EXPECT_EQ(GetViolations(status)[0].field, "data.cache_dir");
  EXPECT_EQ(tokenized, 0);
}

TEST_F(TokenCacheTest, ListsBrokenLinesWithNumberAndReason) {
  const std::string problem = Problem(
      "{\"text\": \"fine\"}\n"
      "{\"text\": \"cut off\n"
      "\n"
      "[1, 2]\n"
      "{\"txt\": \"misspelt\"}\n"
      "{\"text\": 7}\n"
      "{\"text\": \"\"}\n"
      "{\"text\": bad byte \xFF}\n"
      "{\"text\": \"lone \\ud800\"}\n"
      "{\"text\": \"two\"} {\"text\": \"objects\"}\n");
  EXPECT_THAT(problem, HasSubstr("data.jsonl: 8 lines cannot be used"));
  for (const char* says :
       {"line 2: not JSON", "line 4: not an object but array", "line 5: no field `text`",
        "line 6: `text` is not a string but number", "line 7: `text` is empty",
        "line 8: not UTF-8 at offset 18, byte 0xFF",
        "line 9: not JSON: column 22: half of a surrogate pair", "line 10: not JSON"}) {
    EXPECT_THAT(problem, HasSubstr(says));
  }
  EXPECT_THAT(problem, Not(HasSubstr("line 1:")));
}

TEST_F(TokenCacheTest, ShowsTheFirstBrokenLinesOfMany) {
  std::string jsonl;
  for (int i = 0; i < 5000; ++i) jsonl += i % 2 == 0 ? "{\"text\": \"fine one\"}\n" : "broken\n";
  const std::string problem = Problem(jsonl);
  EXPECT_THAT(problem, HasSubstr("2500 lines"));
  EXPECT_THAT(problem, HasSubstr("line 2: "));
  EXPECT_THAT(problem, HasSubstr("line 20: "));
  EXPECT_THAT(problem, Not(HasSubstr("line 22: ")));
  EXPECT_THAT(problem, HasSubstr("and 2490 more"));
}

TEST_F(TokenCacheTest, RefusesADatasetWithNothingToTrainOn) {
  EXPECT_THAT(Problem(""), HasSubstr("nothing to train on"));
  EXPECT_THAT(Problem("\n \n\r\n"), HasSubstr("nothing to train on"));
  EXPECT_THAT(Problem("{\"text\": \"a\"}\n"), HasSubstr("nothing to train on"));
  options_.paths = {dir_.File("absent.jsonl")};
  const auto absent = TokenCache::Open(options_, MiniMind());
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.status().message()), HasSubstr("absent.jsonl"));
  options_.paths = {dir_.path()};
  EXPECT_EQ(TokenCache::Open(options_, MiniMind()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(TokenCacheTest, IsTheSameWithAnyNumberOfThreadsAndLines) {
  std::string jsonl;  // over several read blocks
  for (int i = 0; i < 80'000; ++i) {
    jsonl += "{\"text\": \"line " + std::to_string(i) + " of a file that needs two blocks\"}\r\n";
  }
  std::string files[2];
  for (const int threads : {1, 3}) {
    options_.threads = threads;
    ASSERT_TRUE(Open(jsonl).ok());
    const std::string file = CacheFiles(".tokens").at(0);
    files[threads / 2] = ReadBytes(file);
    fs::remove(file);
  }
  EXPECT_EQ(files[0], files[1]);
}

TEST_F(TokenCacheTest, LeavesNothingWhenTheDiskRefuses) {
  std::string jsonl;
  for (int i = 0; i < 300; ++i) jsonl += "{\"text\": \"some text here\"}\n";
  options_.paths = {dir_.Write("data.jsonl", jsonl)};
  {
    const FileSizeLimit limit(500);
    const absl::Status status = TokenCache::Open(options_, MiniMind()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    ASSERT_EQ(GetViolations(status).size(), 1u);
    EXPECT_EQ(GetViolations(status)[0].field, "data.cache_dir");
  }
  EXPECT_THAT(CacheFiles(".tmp"), testing::IsEmpty());
  EXPECT_TRUE(TokenCache::Open(options_, MiniMind()).ok());
}

TEST_F(TokenCacheTest, LetsSeveralBuildersMeet) {
  std::string jsonl;
  for (int i = 0; i < 3000; ++i) jsonl += "{\"text\": \"some text here\"}\n";
  options_.paths = {dir_.Write("data.jsonl", jsonl)};
  std::vector<std::thread> builders;
  std::vector<int> ok(4);
  for (int t = 0; t < 4; ++t) {
    builders.emplace_back([&, t] {
      const auto cache = TokenCache::Open(options_, MiniMind());
      ok[t] = cache.ok() && (*cache)->documents() == 3000;
    });
  }
  for (auto& builder : builders) builder.join();
  EXPECT_THAT(ok, testing::Each(1));
  EXPECT_EQ(CacheFiles(".tokens").size(), 1u);
  EXPECT_THAT(CacheFiles(".tmp"), testing::IsEmpty());
}

}  // namespace
}  // namespace mindforge
