// Generation, models, tokenizers, the doctor and completion with the real binary.
#include <signal.h>

#include "nlohmann/json.hpp"
#include "tests/cli/program_fixture.h"

namespace mindforge::cli {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

TEST_F(ProgramTest, DeploySendsWhatWasSaid) {
  EXPECT_EQ(Mindforge({"model",      "deploy",
                       "poet",       "--job",
                       "tang",       "--step",
                       "5",          "--replicas",
                       "2",          "--prompt-style",
                       "chat",       "--lora",
                       "polite.pth", "--rope-scaling",
                       "yarn",       "--rope-factor",
                       "8",          "--rope-original-max",
                       "512",        "--rope-beta-fast",
                       "31",         "--rope-beta-slow",
                       "2",          "--rope-attention-factor",
                       "1.5"})
                .exit,
            0);
  EXPECT_EQ(Mindforge({"model", "deploy", "poet", "--path", "folder"}).exit, 0);
  EXPECT_EQ(Mindforge({"model", "deploy", "poet", "--job", "tang", "--rope-factor", "8"}).exit, 2);
  EXPECT_EQ(Mindforge({"model", "delete", "none"}).exit, 3);
  MutexLock lock(fake_.state.mutex);
  ASSERT_EQ(fake_.state.deployed.size(), 2u);
  const v1::DeploymentSpec& spec = fake_.state.deployed[0].deployment();
  EXPECT_EQ(spec.job().job(), "tang");
  EXPECT_EQ(spec.job().step(), 5);
  EXPECT_EQ(spec.replicas(), 2);
  EXPECT_EQ(spec.prompt_style(), v1::PROMPT_STYLE_CHAT);
  EXPECT_EQ(spec.lora_path(), (folder_ / "polite.pth").string());
  EXPECT_EQ(spec.rope_scaling().type(), "yarn");
  EXPECT_EQ(spec.rope_scaling().factor(), 8);
  EXPECT_EQ(spec.rope_scaling().original_max_position_embeddings(), 512);
  EXPECT_EQ(spec.rope_scaling().beta_fast(), 31);
  EXPECT_EQ(spec.rope_scaling().beta_slow(), 2);
  EXPECT_EQ(spec.rope_scaling().attention_factor(), 1.5);
  EXPECT_EQ(fake_.state.deployed[1].deployment().path(), (folder_ / "folder").string());
  EXPECT_FALSE(fake_.state.deployed[1].deployment().has_rope_scaling());
}

TEST_F(ProgramTest, GenerateStreamsTextAndSendsTheFlags) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.pieces = {"春眠", "不觉晓"};
  }
  const Result result = Mindforge({"generate",
                                   "-p",
                                   "夜来",
                                   "--max-tokens",
                                   "9",
                                   "--temperature",
                                   "0",
                                   "--top-p",
                                   "0.5",
                                   "--top-k",
                                   "3",
                                   "--min-p",
                                   "0.1",
                                   "--repetition-penalty",
                                   "1.1",
                                   "--seed",
                                   "18446744073709551615",
                                   "--stop",
                                   "a",
                                   "--stop",
                                   "b",
                                   "--logprobs",
                                   "2"});
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(StartsWith("春眠不觉晓\n"), HasSubstr("-0.500000"),
                                HasSubstr("'春眠'"), HasSubstr("'不觉晓' -0.5000")));
  EXPECT_THAT(result.err, IsEmpty());
  MutexLock lock(fake_.state.mutex);
  const v1::GenerateRequest& request = fake_.state.generated.at(0);
  EXPECT_EQ(request.text(), "夜来");
  EXPECT_EQ(request.stopping().max_new_tokens(), 9);
  EXPECT_TRUE(request.sampling().has_temperature());
  EXPECT_EQ(request.sampling().temperature(), 0);
  EXPECT_EQ(request.sampling().seed(), 18446744073709551615u);
  EXPECT_EQ(request.sampling().min_p(), 0.1);
  EXPECT_EQ(request.stopping().stop_strings_size(), 2);
  EXPECT_EQ(request.output().top_logprobs(), 2);
}

TEST_F(ProgramTest, GenerateTakesStdinJsonAndTheDeploymentsStyle) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.pieces = {"ab", "c"};
    v1::Deployment chat;
    chat.mutable_spec()->set_name("talker");
    chat.mutable_spec()->set_prompt_style(v1::PROMPT_STYLE_CHAT);
    fake_.state.deployments.push_back(chat);
  }
  ProgramOptions options = Options({"generate", "-o", "json", "--system", "Be brief"});
  options.standard_input = "hello\n";
  const Result result = RunProgram(options);
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["results"][0]["text"], "abc");
  EXPECT_EQ(Mindforge({"generate", "-p", "x", "--no-stream"}).out, "abc\n");
  EXPECT_EQ(Mindforge({"generate", "-p", "x", "--no-chat"}).out, "abc\n");
  MutexLock lock(fake_.state.mutex);
  ASSERT_EQ(fake_.state.generated.size(), 3u);
  EXPECT_EQ(fake_.state.generated[0].chat().messages(0).content(), "Be brief");
  EXPECT_EQ(fake_.state.generated[0].chat().messages(1).content(), "hello");
  EXPECT_EQ(fake_.state.generated[1].chat().messages(0).role(), "user");
  EXPECT_EQ(fake_.state.generated[2].text(), "x");
  EXPECT_TRUE(fake_.state.generated[2].add_bos());  // else the server made a chat message of it
}

TEST_F(ProgramTest, CtrlCCancelsAGeneration) {
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.pieces = {"half a "};
    fake_.state.hold_generation = true;
  }
  Program program(Options({"generate", "-p", "x", "--no-chat"}));
  ASSERT_TRUE(program.WaitForOut("half a "));
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_EQ(program.out(), "half a \n");
  MutexLock lock(fake_.state.mutex);
  EXPECT_TRUE(fake_.state.changed.WaitFor(fake_.state.mutex, absl::Seconds(5), [&] {
    fake_.state.mutex.AssertHeld();
    return fake_.state.cancelled_generations == 1;
  }));
}

TEST_F(ProgramTest, TokenizerTrainsEncodesAndDecodesWithoutAServer) {
  fake_.Stop();
  std::string corpus;
  for (int i = 0; i < 50; ++i)
    corpus += R"({"text": "the cat sat on the mat 春眠不觉晓"})"
              "\n";
  Write("corpus.jsonl", corpus);
  const Result trained = Mindforge({"tokenizer", "train", "--data", "corpus.jsonl", "--vocab-size",
                                    "280", "--out", "tok", "-o", "json"});
  ASSERT_EQ(trained.exit, 0) << trained.err;
  EXPECT_EQ(json::parse(trained.out)["texts"], 50);
  const Result ids = Mindforge({"tokenizer", "encode", "--tokenizer", "tok", "the cat 晓"});
  ASSERT_EQ(ids.exit, 0) << ids.err;
  ProgramOptions decode = Options({"tokenizer", "decode", "--tokenizer", "tok"});
  decode.standard_input = ids.out;
  EXPECT_EQ(RunProgram(decode).out, "the cat 晓");
  EXPECT_EQ(Mindforge({"tokenizer", "decode", "--tokenizer", "tok", "999999"}).exit, 2);
}

TEST_F(ProgramTest, DoctorSaysWhatIsWrongAndWhatToDo) {
  Result result = Mindforge({"doctor"});
  EXPECT_EQ(result.exit, 0) << result.out;
  EXPECT_THAT(result.out, AllOf(HasSubstr("ok    server"), HasSubstr("warn  workers"),
                                HasSubstr("-> start one: mindforge-worker")));
  const json report = json::parse(Mindforge({"doctor", "-o", "json"}).out);
  EXPECT_EQ(report["ok"], true);
  EXPECT_GE(report["checks"].size(), 8u);
  result = Mindforge({"doctor", "--token-file", "/nonexistent"});
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.out, HasSubstr("fail  token"));
  fake_.Stop();
  result = Mindforge({"doctor"});
  EXPECT_EQ(result.exit, 5);
  EXPECT_THAT(result.out, HasSubstr("fail  server"));
}

TEST_F(ProgramTest, CompletionKnowsEveryCommand) {
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const Result result = Mindforge({"completion", shell});
    EXPECT_EQ(result.exit, 0);
    for (const char* word : {"submit", "generate", "tokenizer", "drain", "dry-run", "chat", "eval",
                             "max-seq-len", "history"}) {
      EXPECT_THAT(result.out, HasSubstr(word));
    }
  }
  const std::string script =
      Write("complete.bash", Mindforge({"completion", "bash"}).out +
                                 "COMP_WORDS=(mindforge job su) COMP_CWORD=2\n"
                                 "_mindforge; echo \"${COMPREPLY[@]}\" > got\n");
  ASSERT_EQ(system(("cd " + folder_.string() + " && bash " + script).c_str()), 0);
  std::ifstream got(folder_ / "got");
  std::string words;
  std::getline(got, words);
  EXPECT_EQ(words, "submit");
}

}  // namespace
}  // namespace mindforge::cli
