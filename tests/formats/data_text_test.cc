// What text may be: UTF-8 as JSON lines, plain or compressed. Everything else is named, with its
// place, and never learned from.
#include <zstd.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/gzip.h"
#include "tests/formats/minimind_tokenizer.h"
#include "tests/formats/temp_dir.h"
#include "worker/data/bad_lines.h"
#include "worker/data/jsonl_reader.h"
#include "worker/data/text_guess.h"
#include "worker/data/token_cache.h"

namespace mindforge {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using std::string_literals::operator""s;

std::string Line(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }

std::string Zstd(const std::string& content) {
  std::string out(ZSTD_compressBound(content.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), content.data(), content.size(), 3));
  return out;
}

// "text" in UTF-16, the low byte first.
std::string Utf16(const std::string& ascii) {
  std::string wide;
  for (const char c : ascii) wide += std::string{c, '\0'};
  return wide;
}

class DataTextTest : public testing::Test {
 protected:
  // Each line's text, or why it cannot be used; the error that ends the file.
  std::vector<std::string> Read(const std::string& path, JsonlLimits limits = {}) {
    std::vector<std::string> all;
    const auto reader = JsonlReader::Open(path, limits);
    if (!reader.ok()) return {std::string(reader.status().message())};
    while (true) {
      const auto lines = (*reader)->NextBatch();
      if (!lines.ok()) all.push_back(std::string(lines.status().message()));
      if (!lines.ok() || lines->empty()) return all;
      for (const NumberedLine& line : *lines) {
        const auto text = TextOfLine(line);
        all.push_back(text.ok() ? *text : "! " + std::string(text.status().message()));
      }
    }
  }
  std::vector<std::string> ReadText(const std::string& content) {
    return Read(dir_.Write("data.jsonl", content));
  }
  absl::StatusOr<std::unique_ptr<TokenCache>> Open(const std::string& path,
                                                   MalformedLines malformed) {
    return TokenCache::Open(
        {.paths = {path}, .malformed = malformed, .cache_dir = dir_.File("cache"), .threads = 1},
        MiniMind());
  }

  TempDir dir_;
};

TEST_F(DataTextTest, RefusesGbkWithFileLineAndByte) {
  const std::string path = TestData("text/gbk.jsonl");
  const auto refused = Open(path, MalformedLines::kRefuse);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(refused.status().message()),
      AllOf(HasSubstr(path + ": 20 lines cannot be used: line 1: not UTF-8 (looks like GBK) at "
                             "offset 10, byte 0xB4; line 2: not UTF-8"),
            HasSubstr("malformed_lines: skip"), HasSubstr("iconv")));
  const auto skipped = Open(path, MalformedLines::kSkip);
  ASSERT_TRUE(skipped.ok()) << skipped.status();
  EXPECT_EQ((*skipped)->documents(), 4);
  EXPECT_EQ((*skipped)->skipped_lines(), 20);
}

TEST_F(DataTextTest, ReadsGzipWhateverItIsCalled) {
  const std::vector<std::string> texts = Read(TestData("text/plain.jsonl.gz"));
  ASSERT_EQ(texts.size(), 24u);
  EXPECT_EQ(texts[3], "The cat sat on the mat and looked at the moon for a long while.");
  EXPECT_EQ(Read(dir_.Write("a.jsonl", ReadBytes(TestData("text/plain.jsonl.gz")))), texts);
  const std::string content = Line("one") + Line("two");
  EXPECT_THAT(Read(dir_.Write("b.jsonl", Zstd(content))), ElementsAre("one", "two"));
  EXPECT_THAT(Read(dir_.Write("c.jsonl.zst", Gzip(content))), ElementsAre("one", "two"));
}

TEST_F(DataTextTest, GzipHasThePlainFilesDigest) {
  std::string content;
  for (int i = 0; i < 5000; ++i) content += Line("text " + std::to_string(i * 7919 % 1000));
  // Two members, cut inside a line, an empty one, and a tape's zeros behind them.
  const std::string path =
      dir_.Write("a.jsonl.gz", Gzip(content.substr(0, 777)) + Gzip("") + Gzip(content.substr(777)) +
                                   std::string(1024, '\0'));
  const auto plain = Open(dir_.Write("a.jsonl", content), MalformedLines::kRefuse);
  const auto gzip = Open(path, MalformedLines::kRefuse);
  ASSERT_TRUE(plain.ok() && gzip.ok()) << gzip.status();
  EXPECT_EQ((*gzip)->dataset_digest(), (*plain)->dataset_digest());
  EXPECT_EQ(Read(path, {.block_bytes = 100}), Read(dir_.File("a.jsonl")));
}

TEST_F(DataTextTest, RefusesGzipThatIsCutOffOrDamaged) {
  std::string content;
  for (int i = 0; i < 2000; ++i) content += Line("text " + std::to_string(i * 7919 % 1000));
  const std::string sound = Gzip(content);
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{5}, sound.size() / 2, sound.size() - 1}) {
    EXPECT_THAT(Read(dir_.Write("a.jsonl.gz", sound.substr(0, bytes))).back(),
                AllOf(HasSubstr("a.jsonl.gz"), HasSubstr("cut off")))
        << bytes;
  }
  EXPECT_THAT(Read(dir_.Write("a.jsonl.zst", "")).back(), HasSubstr("cut off"));
  std::string damaged = sound;
  damaged[damaged.size() - 6] ^= 1;  // of the checksum
  EXPECT_THAT(Read(dir_.Write("a.jsonl.gz", damaged)).back(), HasSubstr("incorrect data check"));
  EXPECT_THAT(Read(dir_.Write("a.jsonl.gz", sound + "rubbish")).back(),
              HasSubstr("incorrect header check behind member 1"));
  EXPECT_THAT(Read(dir_.Write("a.jsonl.gz", content)).back(), HasSubstr("is no gzip file"));
}

TEST_F(DataTextTest, SaysThatNanIsNotJson) {
  const auto refused = Open(TestData("text/nan.jsonl"), MalformedLines::kRefuse);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("line 1: not JSON: column 44: NaN is a number of Python's and not JSON's"));
  EXPECT_THAT(
      ReadText("{\"x\": [1, -Infinity], \"text\": \"a\"}\n"
               "{\"x\":Infinity}\n{\"x\": nan}\n{\"x\": -inf}\n{\"x\": nil}\n"),
      ElementsAre(HasSubstr("column 11: -Infinity is"), HasSubstr("column 6: Infinity is"),
                  HasSubstr("column 7: nan is"), HasSubstr("column 7: -inf is"),
                  AllOf(HasSubstr("not JSON: column 8: syntax error"), Not(HasSubstr("Python")))));
}

TEST_F(DataTextTest, KnowsWhatFilesOfAnotherKindLookLike) {
  const std::string line = Line("some text");
  const std::pair<std::string, const char*> kinds[] = {
      {"\xFF\xFE" + Utf16(line), "! not UTF-8 (looks like UTF-16) at offset 0, byte 0xFF"},
      {Utf16(line), "! not UTF-8 (looks like UTF-16) at offset 1, byte 0x00"},
      {"\0"s + Utf16(line), "! not UTF-8 (looks like UTF-16) at offset 0, byte 0x00"},
      {"\xFD" + "7zXZ\0\0\x04"s, "! not UTF-8 (looks like xz) at offset 0, byte 0xFD"},
      {Gzip(Gzip(line)), "! not UTF-8 (looks like gzip) at offset 1, byte 0x8B"},
      {Zstd(Zstd(line)), "! not UTF-8 (looks like zstd) at offset 1, byte 0xB5"},
      {"[{\"text\": \"a\"}]", "! not an object but array (looks like one JSON array)"},
      {"[\n  {\"text\": \"a\"},\n", "! not JSON (looks like one JSON array): column 2: "},
      {"\xEF\xBB\xBF[\n  {\"text\": \"a\"},\n", "! not JSON (looks like one JSON array)"},
      {"version https://git-lfs.github.com/spec/v1\n",
       "! not JSON (looks like a git-lfs pointer, not the file itself)"},
      {"<!DOCTYPE html>\n", "! not JSON (looks like an HTML page)"},
      {"{\"text\": \"a\"}\0\0"s, "! a NUL byte at offset 13"},
  };
  for (const auto& [content, says] : kinds) {
    EXPECT_THAT(ReadText(content).at(0), HasSubstr(says)) << content;
  }
}

TEST_F(DataTextTest, GuessesEncodings) {
  EXPECT_EQ(GuessEncoding("caf\xE9 cr\xE8me"), "Windows-1252");
  EXPECT_EQ(GuessEncoding("\x93quoted\x94"), "Windows-1252");
  EXPECT_EQ(GuessEncoding("\xD6\xD0"), "GBK");                                // 中
  EXPECT_EQ(GuessEncoding("\x82\xB1\x82\xF1\x82\xC9\x82\xBF"), "Shift-JIS");  // こんにち
  EXPECT_EQ(GuessEncoding("你好，\xE4\xBD"), "damaged UTF-8");
  EXPECT_EQ(GuessEncoding("\xFF"), "");
  EXPECT_EQ(GuessEncoding("你好"), "");
}

TEST_F(DataTextTest, LeavesAByteOrderMarkOut) {
  const std::string content = "\xEF\xBB\xBF" + Line("one") + Line("two");
  EXPECT_THAT(ReadText(content), ElementsAre("one", "two"));
  EXPECT_THAT(Read(dir_.Write("a.jsonl.gz", Gzip(content))), ElementsAre("one", "two"));
  const auto reader = JsonlReader::Open(dir_.Write("a.txt", "\xEF\xBB\xBFplain"));
  EXPECT_EQ(*PlainTextOfLine((*reader)->NextBatch()->at(0)), "plain\n");
}

TEST_F(DataTextTest, PlainTextMayBeginWithABracket) {
  const auto refused = [&](const std::string& content) {
    const auto reader = JsonlReader::Open(dir_.Write("a.txt", content));
    const auto lines = (*reader)->NextBatch();
    for (const NumberedLine& line : *lines) {
      if (!PlainTextOfLine(line).ok()) return true;
    }
    return false;
  };
  EXPECT_FALSE(refused("[\"Who goes there?\"] he asked.\nNobody said a word.\n"));
  EXPECT_FALSE(refused("[\"a\", \"b\"] are two letters, \"c\" is a third\n"));
  EXPECT_FALSE(refused("[1] See below.\n"));
  EXPECT_TRUE(refused("[\"one text\", \"another\"]\n"));
  EXPECT_TRUE(refused("[{\"text\": \"a bracket ] in a text\"},\n{\"text\": \"b\"}]\n"));
  EXPECT_TRUE(refused("[{\"text\": \"" + std::string(5000, 'x') + "\"}]\n"));
}

// Python's json takes half a pair, and the tokenizers library then refuses the text.
TEST_F(DataTextTest, RefusesHalfASurrogatePair) {
  EXPECT_THAT(ReadText(Line("whole \\ud83d\\ude00") + Line("half \\ud83d") + Line("\\ude00 half")),
              ElementsAre("whole 😀", HasSubstr("half of a surrogate pair"),
                          HasSubstr("half of a surrogate pair")));
  // Python's errors='surrogatepass' writes it out.
  EXPECT_THAT(ReadText(Line("\xED\xA0\x80")), ElementsAre(HasSubstr("not UTF-8")));
  EXPECT_THAT(ReadText(Line("a \\u0000 in a text")), ElementsAre("a \0 in a text"s));
}

TEST_F(DataTextTest, TellsOfEachFileWhatItLeavesOut) {
  BadLines bad;
  for (int file = 0; file < 25; ++file) {
    bad.Add("f" + std::to_string(file), 12, {{.number = 3, .reason = "bad"}});
    bad.Add("f" + std::to_string(file), 1, {{.number = 99, .reason = "worse"}});
  }
  const std::vector<std::string> told = bad.PerFile();
  ASSERT_EQ(told.size(), BadLines::kShownFiles + 1);
  EXPECT_EQ(told[0], "f0: 13 lines cannot be used: line 3: bad; line 99: worse; and 11 more");
  EXPECT_THAT(told[19], testing::StartsWith("f19: 13 lines"));
  EXPECT_EQ(told[20], "and such lines in 5 more files");
  EXPECT_EQ(bad.count(), 25 * 13);
  EXPECT_THAT(bad.InWords(true), AllOf(HasSubstr("325 lines"), HasSubstr("f0, line 3: bad"),
                                       EndsWith("and 315 more")));
}

}  // namespace
}  // namespace mindforge
