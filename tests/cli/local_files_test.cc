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
  const Result invalid =
      Train(Write("latin1.jsonl", corpus_ + "{\"text\": \"caf\xe9\"}\n"), "tok3");
  EXPECT_EQ(invalid.exit, 0) << invalid.err;
  EXPECT_EQ(json::parse(invalid.out)["texts"], 51);
}

TEST_F(LocalFilesTest, WhatIsNoTextIsRefused) {
  const Result compressed = Train(Write("corpus.txt.zst", Compressed(corpus_)), "tok");
  EXPECT_EQ(compressed.exit, 2);
  EXPECT_THAT(compressed.err, HasSubstr("name it .jsonl.zst"));
  fs::create_directory(folder_ / "empty");
  const Result folder = Train("empty", "tok");
  EXPECT_EQ(folder.exit, 2);
  EXPECT_THAT(folder.err, HasSubstr("holds no .jsonl"));
  const Result broken = Train(Write("broken.jsonl", corpus_ + "{\"txt\": 1}\n"), "tok");
  EXPECT_EQ(broken.exit, 2);
  EXPECT_THAT(broken.err, HasSubstr("broken.jsonl, line 51: no field `text`"));
  EXPECT_FALSE(fs::exists(folder_ / "tok"));
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
