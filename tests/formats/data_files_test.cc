// What a dataset is made of: files, folders, zstd, malformed lines, sizes beyond the memory.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/gzip.h"
#include "tests/formats/minimind_tokenizer.h"
#include "tests/formats/temp_dir.h"
#include "worker/data/dataset.h"
#include "worker/data/token_cache.h"

namespace mindforge {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Line(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }

std::string Compressed(const std::string& content) {
  std::string out(ZSTD_compressBound(content.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), content.data(), content.size(), 3);
  EXPECT_EQ(ZSTD_isError(size), 0u);
  out.resize(size);
  return out;
}

class DataFilesTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<TokenCache>> Open(const std::vector<std::string>& paths) {
    options_.paths = paths;
    return TokenCache::Open(options_, MiniMind());
  }

  std::string Problem(const std::vector<std::string>& paths) {
    const auto cache = Open(paths);
    EXPECT_EQ(cache.status().code(), absl::StatusCode::kInvalidArgument) << cache.status();
    return std::string(cache.status().message());
  }

  // The texts that a cache holds.
  static std::vector<std::string> Texts(const TokenCache& cache) {
    std::vector<std::string> texts;
    for (int64_t d = 0; d < cache.documents(); ++d) {
      std::vector<int64_t> ids(cache.DocumentLength(d));
      cache.CopyIds(d, 0, absl::MakeSpan(ids));
      texts.push_back(MiniMind().Decode(std::vector<int32_t>(ids.begin(), ids.end())));
    }
    return texts;
  }

  std::vector<std::string> TextsOf(const std::vector<std::string>& paths) {
    const auto cache = Open(paths);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return cache.ok() ? Texts(**cache) : std::vector<std::string>();
  }

  std::string DigestOf(const std::vector<std::string>& paths) {
    const auto cache = Open(paths);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return cache.ok() ? (*cache)->dataset_digest() : "";
  }

  TempDir dir_;
  TokenCacheOptions options_{.cache_dir = dir_.File("cache"), .threads = 2};
};

TEST_F(DataFilesTest, TakesAFoldersFilesByName) {
  fs::create_directories(dir_.File("set/deeper"));
  dir_.Write("set/b.jsonl.zst", Compressed(Line("second one")));
  dir_.Write("set/a.jsonl", Line("first one"));
  dir_.Write("set/b.jsonl.gz", "not looked at: the .zst of its name is there");
  dir_.Write("set/c.jsonl", Line("third one"));
  dir_.Write("set/c.jsonl.gz", "not looked at: what it was unpacked to is there");
  dir_.Write("set/c.jsonl.zst", "not looked at: what it was made of is there");
  dir_.Write("set/.hidden.jsonl", "not looked at");
  dir_.Write("set/notes.txt", "not looked at");
  dir_.Write("set/deeper/d.jsonl", "not looked at");
  EXPECT_EQ(TextsOf({dir_.File("set")}),
            (std::vector<std::string>{"first one", "second one", "third one"}));
}

// Builds before gzip was read left such files of a folder alone.
TEST_F(DataFilesTest, ADatasetThatBeganWithoutGzipGoesOnWithoutIt) {
  fs::create_directories(dir_.File("set"));
  dir_.Write("set/a.jsonl", Line("first one"));
  const std::string before = DigestOf({dir_.File("set")});
  dir_.Write("set/b.jsonl.gz", Gzip(Line("second one")));
  EXPECT_EQ(TextsOf({dir_.File("set")}), (std::vector<std::string>{"first one", "second one"}));
  options_.expected_digest = before;
  EXPECT_EQ(TextsOf({dir_.File("set")}), (std::vector<std::string>{"first one"}));
  dir_.Write("set/b.jsonl.gz", "no gzip file");
  EXPECT_EQ(TextsOf({dir_.File("set")}), (std::vector<std::string>{"first one"}));
  options_.expected_digest = "0123456789abcdef";
  dir_.Write("set/b.jsonl.gz", Gzip(Line("third one")));
  EXPECT_EQ(GetReason(Open({dir_.File("set")}).status()), kAnotherDataset);
}

// Builds that did not know copies trained on both.
TEST_F(DataFilesTest, ADatasetThatBeganWithACopyKeepsIt) {
  fs::create_directories(dir_.File("set"));
  const std::string plain = dir_.Write("set/a.jsonl", Line("first one"));
  const std::string copy = dir_.Write("set/a.jsonl.zst", Compressed(Line("first one")));
  EXPECT_EQ(TextsOf({dir_.File("set")}), (std::vector<std::string>{"first one"}));
  options_.expected_digest = DigestOf({plain, copy});
  EXPECT_EQ(TextsOf({dir_.File("set")}), (std::vector<std::string>{"first one", "first one"}));
}

TEST_F(DataFilesTest, KeepsTheOrderOfPaths) {
  fs::create_directories(dir_.File("set"));
  dir_.Write("set/z.jsonl", Line("in the folder"));
  const std::string file = dir_.Write("one.jsonl", Line("the file"));
  EXPECT_EQ(TextsOf({file, dir_.File("set"), file}),
            (std::vector<std::string>{"the file", "in the folder", "the file"}));
  EXPECT_NE(DigestOf({file, dir_.File("set")}), DigestOf({dir_.File("set"), file}));
}

TEST_F(DataFilesTest, DigestsWhatIsInTheFilesWhateverTheyAreCalled) {
  const std::string a = dir_.Write("a.jsonl", Line("one two"));
  const std::string b = dir_.Write("b.jsonl", Line("three four"));
  const std::string both = dir_.Write("both.jsonl", Line("one two") + Line("three four"));
  const std::string single = DigestOf({a});
  const std::string pair = DigestOf({a, b});
  EXPECT_EQ(single, "5724faf8bdb7e926");  // XXH3-64 of the file: jobs that began before go on
  EXPECT_NE(DigestOf({both}), pair);
  fs::create_directories(dir_.File("set"));
  fs::rename(a, dir_.File("set/first.jsonl"));
  fs::rename(b, dir_.File("set/second.jsonl"));
  EXPECT_EQ(DigestOf({dir_.File("set")}), pair);
  dir_.Write("set/second.jsonl", Line("three five"));
  EXPECT_NE(DigestOf({dir_.File("set")}), pair);
}

TEST_F(DataFilesTest, ReadsZstdAsThePlainFile) {
  std::string content;
  for (int i = 0; i < 20'000; ++i)
    content += Line("text number " + std::to_string(i * 7919 % 1000));
  const std::string plain = dir_.Write("a.jsonl", content);
  const auto rows = TextsOf({plain});
  const std::string digest = DigestOf({plain});
  fs::remove_all(options_.cache_dir);
  options_.limits.block_bytes = 1000;  // many reads within one of zstd's blocks
  // Two frames, cut inside a line, and an empty one.
  const size_t cut = content.size() / 3 + 5;
  const std::string zst =
      dir_.Write("a.jsonl.zst", Compressed(content.substr(0, cut)) + Compressed("") +
                                    Compressed(content.substr(cut)));
  EXPECT_EQ(TextsOf({zst}), rows);
  EXPECT_EQ(DigestOf({zst}), digest);
}

TEST_F(DataFilesTest, RefusesABrokenZstdFile) {
  std::string content;
  for (int i = 0; i < 2000; ++i) content += Line("text " + std::to_string(i * 7919 % 1000));
  const std::string sound = Compressed(content);
  for (const size_t bytes : {size_t{3}, sound.size() / 2, sound.size() - 1}) {
    EXPECT_THAT(Problem({dir_.Write("a.jsonl.zst", sound.substr(0, bytes))}),
                AllOf(HasSubstr("a.jsonl.zst"), HasSubstr("cut off")))
        << bytes;
  }
  EXPECT_THAT(Problem({dir_.Write("a.jsonl.zst", content)}), HasSubstr("is no zstd file"));
  EXPECT_THAT(Problem({dir_.Write("a.jsonl.zst", sound + "rubbish")}), HasSubstr("a.jsonl.zst"));
}

TEST_F(DataFilesTest, NamesFileAndLineOfMalformedLines) {
  const std::string a = dir_.Write("a.jsonl", Line("fine one") + "broken\n");
  const std::string b = dir_.Write("b.jsonl", Line("fine one") + "\n{\"txt\": \"x\"}\n");
  EXPECT_THAT(
      Problem({a, b}),
      AllOf(HasSubstr("2 lines cannot be used"), HasSubstr("a.jsonl, line 2: not JSON"),
            HasSubstr("b.jsonl, line 3: no field `text`"), HasSubstr("malformed_lines: skip")));
}

TEST_F(DataFilesTest, SkipsAndCountsMalformedLinesWhenAsked) {
  const std::string a =
      dir_.Write("a.jsonl", Line("first one") + "broken\n\n{\"text\": 7}\n" + Line("second one"));
  options_.malformed = MalformedLines::kSkip;
  for (int round = 0; round < 2; ++round) {  // built, then reused
    const auto cache = Open({a});
    ASSERT_TRUE(cache.ok()) << cache.status();
    EXPECT_EQ((*cache)->skipped_lines(), 2);
    EXPECT_EQ(Texts(**cache), (std::vector<std::string>{"first one", "second one"}));
  }
  // The cache of a job that skips is none for one that refuses.
  options_.malformed = MalformedLines::kRefuse;
  EXPECT_THAT(Problem({a}), HasSubstr("line 2: not JSON"));
  options_.malformed = MalformedLines::kSkip;
  EXPECT_EQ((*Open({a}))->skipped_lines(), 2);
  EXPECT_THAT(Problem({dir_.Write("b.jsonl", "broken\n")}),
              AllOf(HasSubstr("nothing to train on"), HasSubstr("line 1")));
}

TEST_F(DataFilesTest, CountsALineAboveTheLimitAsMalformed) {
  options_.limits = {.block_bytes = 16, .max_line_bytes = 60};
  options_.malformed = MalformedLines::kSkip;
  const std::string a = dir_.Write("a.jsonl", Line("first one") + Line(std::string(500, 'x')) +
                                                  Line("second one") + Line(std::string(300, 'y')));
  const auto cache = Open({a});
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ(Texts(**cache), (std::vector<std::string>{"first one", "second one"}));
  EXPECT_EQ((*cache)->skipped_lines(), 2);
  options_.malformed = MalformedLines::kRefuse;
  EXPECT_THAT(Problem({a}), AllOf(HasSubstr("line 2: longer than 60 bytes"),
                                  HasSubstr("line 4: longer than 60 bytes")));
  // The largest that is allowed: in one block or over several.
  const std::string b = dir_.Write("b.jsonl", Line(std::string(48, 'z')) + Line("last one"));
  EXPECT_EQ(TextsOf({b}), (std::vector<std::string>{std::string(48, 'z'), "last one"}));
}

// Wherever the blocks that are read begin and end.
TEST_F(DataFilesTest, ALineAboveTheLimitTakesNoOtherWithIt) {
  options_.limits = {.block_bytes = 64, .max_line_bytes = 60};
  options_.malformed = MalformedLines::kSkip;
  for (size_t length = 100; length < 164; length += 8) {
    const std::string a =
        dir_.Write("a.jsonl", Line(std::string(length, 'x')) + Line("a b") + Line("b c") +
                                  Line(std::string(200, 'y')) + "broken\n" + Line("c d"));
    const auto cache = Open({a});
    ASSERT_TRUE(cache.ok()) << cache.status();
    EXPECT_EQ(Texts(**cache), (std::vector<std::string>{"a b", "b c", "c d"})) << length;
    EXPECT_EQ((*cache)->skipped_lines(), 3) << length;
  }
}

TEST_F(DataFilesTest, SaysWhichFolderItCannotUse) {
  fs::create_directories(dir_.File("empty/deeper"));
  EXPECT_THAT(Problem({dir_.File("empty")}),
              HasSubstr("holds no .jsonl, .jsonl.gz or .jsonl.zst file"));
  const std::string a = dir_.Write("a.jsonl", Line("one two"));
  options_.cache_dir = a + "/cache";  // below a file; permissions do not stop a root user
  options_.paths = {a};
  const auto blocked = TokenCache::Open(options_, MiniMind());
  EXPECT_THAT(std::string(blocked.status().message()), HasSubstr("data.cache_dir"));
}

TEST_F(DataFilesTest, SaysThatACacheFolderIsNotWritable) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  fs::create_directories(dir_.File("locked"));
  fs::permissions(dir_.File("locked"), fs::perms::owner_read | fs::perms::owner_exec);
  options_.cache_dir = dir_.File("locked") + "/cache";
  options_.paths = {dir_.Write("a.jsonl", Line("one two"))};
  const absl::Status status = TokenCache::Open(options_, MiniMind()).status();
  ASSERT_EQ(GetViolations(status).size(), 1u) << status;
  EXPECT_EQ(GetViolations(status)[0].field, "data.cache_dir");
}

TEST_F(DataFilesTest, TellsHowFarItIs) {
  std::string content;
  for (int i = 0; i < 2000; ++i) content += Line("some text here");
  const std::string a = dir_.Write("a.jsonl", content);
  const std::string b = dir_.Write("b.jsonl", Line("one more"));
  TokenCacheProgress last;
  options_.progress = [&last](const TokenCacheProgress& progress) { last = progress; };
  ASSERT_TRUE(Open({a, b}).ok());
  EXPECT_EQ(last.phase, TokenCacheProgress::Phase::kTokenizing);
  EXPECT_EQ(last.bytes_total, static_cast<int64_t>(content.size() + Line("one more").size()));
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_GT(last.bytes_per_second, 0);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

// Private memory of this process, which RLIMIT_DATA limits.
rlim_t DataBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    rlim_t kilobytes = 0;
    if (word == "VmData:" && status >> kilobytes) return kilobytes << 10;
  }
  return 0;
}

TEST_F(DataFilesTest, NeedsLittleMemoryForLargeFiles) {
  constexpr size_t kContentBytes = size_t{24} << 20;
  constexpr rlim_t kMemoryBytes = rlim_t{8} << 20;
  std::string block;
  std::string text;
  while (text.size() < 4000) text += " a line of it";
  while (block.size() < (1 << 20)) block += Line(text);
  std::string frame = Compressed(block);
  std::string file;
  for (size_t bytes = 0; bytes < kContentBytes; bytes += block.size()) file += frame;
  options_.paths = {dir_.Write("large.jsonl.zst", file)};
  options_.threads = 1;
  options_.limits.block_bytes = size_t{128} << 10;
  MiniMind();
  // In a process of its own, which is given so much memory beyond what it has.
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{DataBytes() + kMemoryBytes, DataBytes() + kMemoryBytes};
    ::setrlimit(RLIMIT_DATA, &limit);
    const auto cache = TokenCache::Open(options_, MiniMind());
    ::_exit(cache.ok() && (*cache)->documents() > 5'000 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

#endif

}  // namespace
}  // namespace mindforge
