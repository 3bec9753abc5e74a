// Conversations with the real binary.
#include <signal.h>

#include "nlohmann/json.hpp"
#include "tests/cli/program_fixture.h"

namespace mindforge::cli {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChatTest : public ProgramTest {
 protected:
  void Serve(v1::PromptStyle style) {
    MutexLock lock(fake_.state.mutex);
    fake_.state.pieces = {"good ", "answer"};
    v1::Deployment deployment;
    deployment.mutable_spec()->set_name("talker");
    deployment.mutable_spec()->set_prompt_style(style);
    fake_.state.deployments.push_back(deployment);
  }

  Result Chat(std::vector<std::string> arguments, const std::string& input) {
    arguments.insert(arguments.begin(), {"chat", "--model", "talker"});
    ProgramOptions options = Options(std::move(arguments));
    options.standard_input = input;
    return RunProgram(options);
  }

  std::vector<v1::GenerateRequest> Requests() {
    MutexLock lock(fake_.state.mutex);
    return fake_.state.generated;
  }

  // "role: content" of each message.
  static std::vector<std::string> Messages(const v1::GenerateRequest& request) {
    std::vector<std::string> messages;
    for (const v1::ChatMessage& message : request.chat().messages()) {
      messages.push_back(message.role() + ": " + message.content());
    }
    return messages;
  }
};

TEST_F(ChatTest, AnswersEachPipedLineWithoutHistoryByDefault) {
  Serve(v1::PROMPT_STYLE_CHAT);
  const Result result = Chat({"--system", "Be brief"}, "one\n\n  \ntwo");
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.out, "good answer\n\ngood answer\n\n");
  EXPECT_THAT(result.err, HasSubstr("eos, "));
  const auto requests = Requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_THAT(Messages(requests[0]), ElementsAre("system: Be brief", "user: one"));
  EXPECT_THAT(Messages(requests[1]), ElementsAre("system: Be brief", "user: two"));
  EXPECT_EQ(requests[0].sampling().seed(), 2026u);
  EXPECT_EQ(requests[0].stopping().max_new_tokens(), 8192);
  EXPECT_FALSE(requests[0].chat().has_enable_thinking());
}

TEST_F(ChatTest, KeepsTheLastMessagesAsHistory) {
  Serve(v1::PROMPT_STYLE_CHAT);
  EXPECT_EQ(Chat({"--history", "2", "--thinking"}, "one\ntwo\nthree\n").exit, 0);
  const auto requests = Requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_THAT(Messages(requests[0]), ElementsAre("user: one"));
  EXPECT_THAT(Messages(requests[1]),
              ElementsAre("user: one", "assistant: good answer", "user: two"));
  EXPECT_THAT(Messages(requests[2]),
              ElementsAre("user: two", "assistant: good answer", "user: three"));
  EXPECT_TRUE(requests[2].chat().enable_thinking());
}

TEST_F(ChatTest, RefusesAnOddHistory) {
  const Result result = Chat({"--history", "3"}, "one\n");
  EXPECT_EQ(result.exit, 2);
  EXPECT_THAT(result.err, HasSubstr("--history: 3 is not an even number"));
}

TEST_F(ChatTest, ContinuesTextsWhereTheModelTakesThem) {
  Serve(v1::PROMPT_STYLE_COMPLETION);
  const Result result = Chat({"--history", "2", "--seed", "7", "--max-tokens", "5"}, "one\n");
  EXPECT_EQ(result.exit, 0);
  EXPECT_THAT(result.err, HasSubstr("the model continues texts"));
  const auto requests = Requests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].text(), "one");
  EXPECT_TRUE(requests[0].add_bos());
  EXPECT_EQ(requests[0].sampling().seed(), 7u);
  EXPECT_EQ(requests[0].stopping().max_new_tokens(), 5);
}

TEST_F(ChatTest, AsksTheEightBuiltInPromptsWithTheSameSeed) {
  Serve(v1::PROMPT_STYLE_CHAT);
  const Result result = Chat({"--auto"}, "");
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("> 为什么天空是蓝色的\ngood answer\n\n> 请用Python"));
  const auto requests = Requests();
  ASSERT_EQ(requests.size(), 8u);
  EXPECT_THAT(Messages(requests[0]), ElementsAre("user: 你有什么特长？"));
  EXPECT_THAT(Messages(requests[7]), ElementsAre("user: 推荐一些中国的美食"));
  for (const auto& request : requests) EXPECT_EQ(request.sampling().seed(), 2026u);
}

TEST_F(ChatTest, PrintsOneLineOfJsonAnAnswer) {
  Serve(v1::PROMPT_STYLE_CHAT);
  const Result result = Chat({"-o", "json", "--history", "2"}, "one\r\ntwo\n");
  ASSERT_EQ(result.exit, 0) << result.err;
  std::istringstream lines(result.out);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_EQ(json::parse(line)["results"][0]["text"], "good answer");
  }
  EXPECT_EQ(count, 2);
  EXPECT_THAT(Messages(Requests().at(1)),
              ElementsAre("user: one", "assistant: good answer", "user: two"));
}

TEST_F(ChatTest, CtrlCStopsTheAnswerAndCtrlDTheChat) {
  Serve(v1::PROMPT_STYLE_CHAT);
  const auto hold = [this](bool on) {
    MutexLock lock(fake_.state.mutex);
    fake_.state.hold_generation = on;
    fake_.state.pieces = {on ? "half an" : "a whole one"};
  };
  hold(true);
  ProgramOptions options = Options({"chat", "--history", "4"});
  options.keyboard = true;
  Program program(options);
  ASSERT_TRUE(program.WaitForErr("> "));
  program.Signal(SIGINT);  // nothing is being answered
  ASSERT_TRUE(program.WaitForErr("Ctrl-D ends the chat)"));
  program.Type("one\n");
  ASSERT_TRUE(program.WaitForOut("half an"));
  program.Signal(SIGINT);
  ASSERT_TRUE(program.WaitForErr("stopped"));
  hold(false);
  program.Type("two\n");
  ASSERT_TRUE(program.WaitForOut("a whole one"));
  ASSERT_TRUE(program.WaitForErr("eos, "));
  program.Type("\x04");
  EXPECT_EQ(program.Wait(), 0);
  const auto requests = Requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_THAT(Messages(requests[1]), ElementsAre("user: one", "assistant: half an", "user: two"));
}

TEST_F(ChatTest, TimeoutEndsTheChatAtItsPromptToo) {
  Serve(v1::PROMPT_STYLE_CHAT);
  ProgramOptions options = Options({"chat", "--timeout", "300ms"});
  options.keyboard = true;  // where nothing is typed
  const Result result = RunProgram(options);
  EXPECT_EQ(result.exit, 124);
  EXPECT_THAT(result.err, HasSubstr("--timeout 300ms ran out"));
}

TEST_F(ChatTest, CtrlCEndsAPipedChat) {
  Serve(v1::PROMPT_STYLE_CHAT);
  {
    MutexLock lock(fake_.state.mutex);
    fake_.state.hold_generation = true;
  }
  ProgramOptions options = Options({"chat"});
  options.standard_input = "one\ntwo\n";
  Program program(options);
  ASSERT_TRUE(program.WaitForOut("good answer"));
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 130);
  EXPECT_EQ(Requests().size(), 1u);
}

TEST_F(ChatTest, SaysWhichModelIsNotThere) {
  Serve(v1::PROMPT_STYLE_CHAT);
  const Result result = Mindforge({"chat", "--model", "other", "--auto"});
  EXPECT_EQ(result.exit, 3);
  EXPECT_THAT(result.err, HasSubstr("other"));
}

}  // namespace
}  // namespace mindforge::cli
