// Commands that work on files in this process, with the real binary: tokenizer training, and what
// ends them.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <zstd.h>

#include "common/unique_fd.h"
#include "nlohmann/json.hpp"
#include "tests/cli/program_fixture.h"

namespace mindforge::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

namespace fs = std::filesystem;

class LocalFilesTest : public ProgramTest {
 protected:
  LocalFilesTest() {
    for (int i = 0; i < 50; ++i) corpus_ += "{\"text\": \"the cat sat on the mat\"}\n";
  }

  std::vector<std::string> TrainCommand(const std::string& data, const std::string& out) {
    return {"tokenizer", "train", "--data", data, "--vocab-size",
            "280",       "--out", out,      "-o", "json"};
  }
  Result Train(const std::string& data, const std::string& out) {
    return Mindforge(TrainCommand(data, out));
  }
  std::string Read(const std::string& name) {
    std::ifstream file(folder_ / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string Compressed(const std::string& text) {
    std::string bytes(ZSTD_compressBound(text.size()), '\0');
    bytes.resize(ZSTD_compress(bytes.data(), bytes.size(), text.data(), text.size(), 3));
    return bytes;
  }

  std::string corpus_;
};

TEST_F(LocalFilesTest, TokenizersTrainOnWhatJobsTrainOn) {
  Write("corpus.jsonl", corpus_ + " \t\n");
  const Result plain = Train("corpus.jsonl", "tok");
  ASSERT_EQ(plain.exit, 0) << plain.err;
  EXPECT_EQ(json::parse(plain.out)["texts"], 50);
  fs::create_directory(folder_ / "parts");
  Write("parts/a.jsonl.zst", Compressed(corpus_));
  Write("parts/notes.txt", "not for training");
  for (const char* data : {"parts", "parts/a.jsonl.zst"}) {
    const std::string out = "tok-" + fs::path(data).filename().string();
    const Result result = Train(data, out);
    ASSERT_EQ(result.exit, 0) << result.err;
    EXPECT_EQ(json::parse(result.out)["texts"], 50);
    EXPECT_EQ(Read(out + "/tokenizer.json"), Read("tok/tokenizer.json"));
  }
}

TEST_F(LocalFilesTest, WhatIsNoTextIsRefused) {
  const Result compressed = Train(Write("corpus.zst", Compressed(corpus_)), "tok");
  EXPECT_EQ(compressed.exit, 2);
  EXPECT_THAT(compressed.err, HasSubstr("name it .jsonl.gz or .jsonl.zst"));
  fs::create_directory(folder_ / "empty");
  const Result folder = Train("empty", "tok");
  EXPECT_EQ(folder.exit, 2);
  EXPECT_THAT(folder.err, HasSubstr("holds no .jsonl"));
  const Result broken = Train(Write("broken.jsonl", corpus_ + "{\"txt\": 1}\n"), "tok");
  EXPECT_EQ(broken.exit, 2);
  EXPECT_THAT(broken.err, HasSubstr("broken.jsonl, line 51: no field `text`"));
  EXPECT_FALSE(fs::exists(folder_ / "tok"));
}

TEST_F(LocalFilesTest, TokenizersLearnFromGzipAsFromThePlainFile) {
  const std::string gzip = TestData("text/plain.jsonl.gz");
  const Result result = Train(gzip, "tok");
  ASSERT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["texts"], 24);
  EXPECT_THAT(Read("tok/tokenizer.json"), Not(HasSubstr("\\u001f")));
  fs::copy_file(gzip, folder_ / "named.jsonl");  // what it is called does not matter
  EXPECT_EQ(Train("named.jsonl", "again").exit, 0);
  EXPECT_EQ(Read("again/tokenizer.json"), Read("tok/tokenizer.json"));
}

TEST_F(LocalFilesTest, OtherEncodingsAreNamedAndNeverLearned) {
  const std::string gbk = TestData("text/gbk.jsonl");
  const std::string refusal =
      "gbk.jsonl, line 1: not UTF-8 (looks like GBK) at offset 10, byte 0xB4";
  const Result lines = Train(gbk, "tok");
  EXPECT_EQ(lines.exit, 2);
  EXPECT_THAT(lines.err, HasSubstr(refusal));
  fs::copy_file(gbk, folder_ / "gbk.txt");
  const Result plain = Train("gbk.txt", "tok");
  EXPECT_EQ(plain.exit, 2);
  EXPECT_THAT(plain.err, HasSubstr("gbk.txt, line 1: not UTF-8 (looks like GBK) at offset 10"));
  const Result wide = Train(Write("wide.txt", std::string("a\0b\0\n\0", 6)), "tok");
  EXPECT_EQ(wide.exit, 2);
  EXPECT_THAT(wide.err, HasSubstr("line 1: not UTF-8 (looks like UTF-16) at offset 1"));
  const Result array = Train(Write("array.json", "[\n {\"text\": \"one\"}\n]\n"), "tok");
  EXPECT_EQ(array.exit, 2);
  EXPECT_THAT(array.err, HasSubstr("line 1: not plain text (looks like one JSON array)"));
  const Result objects = Train(Write("objects.txt", corpus_), "tok");
  EXPECT_EQ(objects.exit, 2);
  EXPECT_THAT(objects.err, HasSubstr("name the file .jsonl"));
  EXPECT_FALSE(fs::exists(folder_ / "tok"));

  Write("mixed.jsonl", corpus_ + "{\"text\": \"caf\xe9\"}\n");
  std::vector<std::string> command = TrainCommand("mixed.jsonl", "tok");
  command.insert(command.end(), {"--malformed-lines", "skip"});
  const Result skipped = Mindforge(command);
  ASSERT_EQ(skipped.exit, 0) << skipped.err;
  EXPECT_EQ(json::parse(skipped.out)["texts"], 50);
  EXPECT_THAT(skipped.err, HasSubstr("mixed.jsonl: 1 line cannot be used: line 51: not UTF-8 "
                                     "(looks like Windows-1252) at offset 13, byte 0xE9"));
}

TEST_F(LocalFilesTest, EncodeTakesTextAlone) {
  ASSERT_EQ(Train(Write("corpus.jsonl", corpus_), "tok").exit, 0);
  const Result result = Mindforge({"tokenizer", "encode", "--tokenizer", "tok", "caf\xe9"});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("not UTF-8 (looks like Windows-1252) at offset 3"));
}

TEST_F(LocalFilesTest, ATokenizerIsReplacedOnlyWhenAsked) {
  Write("corpus.jsonl", corpus_);
  fs::create_directory(folder_ / "tok");
  Write("tok/chat_template.jinja", "another's");
  const Result kept = Train("corpus.jsonl", "tok");
  EXPECT_EQ(kept.exit, 1);
  EXPECT_THAT(kept.err, AllOf(HasSubstr("chat_template.jinja exists"), HasSubstr("--overwrite")));
  EXPECT_FALSE(fs::exists(folder_ / "tok/tokenizer.json"));
  std::vector<std::string> command = TrainCommand("corpus.jsonl", "tok");
  command.push_back("--overwrite");
  EXPECT_EQ(Mindforge(command).exit, 0);
  EXPECT_TRUE(fs::exists(folder_ / "tok/tokenizer.json"));
  EXPECT_FALSE(fs::exists(folder_ / "tok/chat_template.jinja")) << "it would win over the new one";
}

TEST_F(LocalFilesTest, AFilesErrorIsNotTheServers) {
  const Result refused = Train(Write("corpus.jsonl", corpus_), "/sys/tok");
  EXPECT_EQ(refused.exit, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("/sys/tok"), Not(HasSubstr("server"))));
}

TEST_F(LocalFilesTest, TimeoutEndsThemWithItsStatus) {
  ASSERT_EQ(Train(Write("corpus.jsonl", corpus_), "tok").exit, 0);
  ProgramOptions options =
      Options({"tokenizer", "encode", "--tokenizer", "tok", "--timeout", "100ms"});
  options.keyboard = true;  // where nothing is typed
  const Result result = RunProgram(options);
  EXPECT_EQ(result.exit, 124);
  EXPECT_THAT(result.err, HasSubstr("--timeout 100ms ran out"));
}

// A checkpoint whose configuration is a pipe, so that an export reads until somebody ends it.
TEST_F(LocalFilesTest, CtrlCEndsAnExportAtOnce) {
  fs::create_directory(folder_ / "step-100.g1");
  const std::string pipe = (folder_ / "step-100.g1/config.json").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  {
    MutexLock lock(fake_.state.mutex);
    v1::Checkpoint one;
    one.set_step(100);
    one.set_path((folder_ / "step-100.g1").string());
    fake_.state.checkpoints.push_back(one);
  }
  Program program(Options({"checkpoint", "export", "tang", "100", "--format", "hf", "--out", "x"}));
  const UniqueFd writer(::open(pipe.c_str(), O_WRONLY | O_CLOEXEC));  // until the export reads it
  ASSERT_TRUE(writer.valid());
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 130) << program.err();
}

}  // namespace
}  // namespace mindforge::cli
