// `mindforge chat`: prompt after prompt with one model, typed, piped, or MiniMind's own eight.
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/app.h"
#include "cli/errors.h"
#include "cli/generation.h"
#include "common/duration.h"
#include "common/error_details.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

constexpr size_t kMaxPromptBytes = 8 << 20;
constexpr int kMaxHistory = 1000;      // messages
constexpr int kInputSliceMillis = 50;  // how soon Ctrl-C and --timeout are noticed at the prompt
// The reference's, so that the same weights give the same answers to the same prompts again.
constexpr uint64_t kSeed = 2026;
constexpr int kMaxNewTokens = 8192;
constexpr const char* kPrompts[] = {
    "你有什么特长？",
    "为什么天空是蓝色的",
    "请用Python写一个计算斐波那契数列的函数",
    "解释一下\"光合作用\"的基本过程",
    "如果明天下雨，我应该如何出门",
    "比较一下猫和狗作为宠物的优缺点",
    "解释什么是机器学习",
    "推荐一些中国的美食",
};

struct ChatFlags {
  std::string model;
  std::string system;
  int history = 0;
  std::optional<bool> thinking;
  std::optional<bool> chat;
  bool automatic = false;
  std::shared_ptr<v1::GenerateRequest> request = std::make_shared<v1::GenerateRequest>();
};

// One conversation. Ctrl-C may come from another thread; all else is for one.
class Conversation {
 public:
  Conversation(Session& session, const ChatFlags& flags, std::shared_ptr<grpc::Channel> channel,
               bool chat)
      : session_(session),
        flags_(flags),
        stub_(v1::InferenceService::NewStub(std::move(channel))),
        chat_(chat) {}

  // Prints the answer, and what it cost on stderr. OK also when Ctrl-C stopped it.
  absl::Status Answer(const std::string& prompt) {
    stopped_ = false;
    answering_ = true;
    Outcome outcome;
    const absl::Status status = Ask(prompt, outcome);
    answering_ = false;
    if (!session_.structured()) EndLine(session_, outcome);
    if (!status.ok() && !stopped_) return status;
    session_.Note(stopped_ ? "stopped" : SpeedNote(outcome.finished));
    if (!chat_ || flags_.history == 0) return absl::OkStatus();
    history_.push_back({"user", prompt});
    history_.push_back({"assistant", outcome.text});
    while (history_.size() > static_cast<size_t>(flags_.history)) history_.pop_front();
    return absl::OkStatus();
  }

  // Stops the answer that is under way; false when none is. From any thread.
  bool Stop() {
    if (!answering_) return false;
    stopped_ = true;
    session_.CancelCalls();
    return true;
  }

 private:
  struct Message {
    std::string role;
    std::string content;
  };

  v1::GenerateRequest Request(const std::string& prompt) const {
    v1::GenerateRequest request = *flags_.request;
    request.set_request_id(RandomUuid());
    request.set_model(flags_.model);
    if (!request.sampling().has_seed()) request.mutable_sampling()->set_seed(kSeed);
    if (!request.stopping().has_max_new_tokens()) {
      request.mutable_stopping()->set_max_new_tokens(kMaxNewTokens);
    }
    if (!chat_) {
      request.set_text(prompt);
      request.set_add_bos(true);
      return request;
    }
    v1::ChatMessages& chat = *request.mutable_chat();
    if (!flags_.system.empty()) AddMessage(chat, "system", flags_.system);
    for (const Message& message : history_) AddMessage(chat, message.role, message.content);
    AddMessage(chat, "user", prompt);
    if (flags_.thinking.has_value()) chat.set_enable_thinking(*flags_.thinking);
    return request;
  }

  absl::Status Ask(const std::string& prompt, Outcome& outcome) {
    const v1::GenerateRequest request = Request(prompt);
    if (!session_.structured()) return StreamText(session_, *stub_, request, outcome, &stopped_);
    ASSIGN_OR_RETURN(const v1::GenerateUnaryResponse response,
                     GenerateWhole(session_, *stub_, request));
    session_.PrintLine(response);
    for (const v1::GenerationResult& result : response.results()) {
      outcome.text = result.text();
      outcome.finished = result.finished();
    }
    return absl::OkStatus();
  }

  Session& session_;
  const ChatFlags& flags_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const bool chat_;
  std::deque<Message> history_;
  std::atomic<bool> answering_{false};
  std::atomic<bool> stopped_{false};
};

// While it lives Ctrl-C stops an answer and not the program.
class InterruptsForAnswers {
 public:
  InterruptsForAnswers(Session& session, Conversation& conversation) : session_(session) {
    session.TakeInterrupts([this, &conversation] {
      if (!conversation.Stop()) idle_ = true;
    });
  }
  ~InterruptsForAnswers() { session_.TakeInterrupts(nullptr); }
  InterruptsForAnswers(const InterruptsForAnswers&) = delete;
  InterruptsForAnswers& operator=(const InterruptsForAnswers&) = delete;

  // Whether Ctrl-C came since the last look while nothing was being answered.
  bool TakeIdle() { return idle_.exchange(false); }

 private:
  Session& session_;
  std::atomic<bool> idle_{false};
};

absl::Status TimeoutError(const Session& session) {
  return absl::DeadlineExceededError(
      absl::StrCat("--timeout ", FormatDuration(session.options.timeout), " ran out"));
}

// Waits until stdin has something to read or has ended. CANCELLED after Ctrl-C, DEADLINE_EXCEEDED
// when --timeout ran out. `interrupts`: those of a chat that Ctrl-C does not end; null: none.
absl::Status WaitForInput(Session& session, InterruptsForAnswers* interrupts) {
  while (std::cin.rdbuf()->in_avail() <= 0) {
    if (session.interrupted()) return absl::CancelledError("interrupted");
    if (session.TimeoutRanOut()) return TimeoutError(session);
    if (interrupts != nullptr && interrupts->TakeIdle()) {
      session.err() << "\n(Ctrl-D ends the chat)\n> " << std::flush;
    }
    pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (::poll(&input, 1, kInputSliceMillis) != 0) {
      if (input.revents != 0) return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

// The next line that is not blank; none at the end. Errors as WaitForInput.
absl::StatusOr<std::optional<std::string>> ReadLine(Session& session,
                                                    InterruptsForAnswers* interrupts) {
  while (true) {
    std::string line;
    int c = 0;
    while (true) {
      RETURN_IF_ERROR(WaitForInput(session, interrupts));
      c = std::cin.get();
      if (c == EOF || c == '\n') break;
      line.push_back(static_cast<char>(c));
      if (line.size() > kMaxPromptBytes) {
        return InvalidArgument("stdin", "a prompt is over 8 MiB, more than any context holds");
      }
    }
    if (line.ends_with('\r')) line.pop_back();
    if (!absl::StripAsciiWhitespace(line).empty()) return line;
    if (c == EOF) return std::nullopt;
  }
}

absl::StatusOr<ExitCode> TypedChat(Session& session, Conversation& conversation) {
  session.Note("Ctrl-C stops an answer, Ctrl-D ends the chat");
  InterruptsForAnswers interrupts(session, conversation);
  while (true) {
    session.err() << "> " << std::flush;
    ASSIGN_OR_RETURN(const std::optional<std::string> prompt, ReadLine(session, &interrupts));
    if (!prompt.has_value()) {
      session.err() << std::endl;
      return ExitCode::kOk;
    }
    // Whoever types can mend what was wrong, or wait for the server, and go on.
    const absl::Status status = conversation.Answer(*prompt);
    if (session.TimeoutRanOut()) return status.ok() ? TimeoutError(session) : status;
    if (!status.ok()) PrintError(session, status);
  }
}

absl::StatusOr<ExitCode> PipedChat(Session& session, Conversation& conversation) {
  while (session.out()) {
    ASSIGN_OR_RETURN(const std::optional<std::string> prompt, ReadLine(session, nullptr));
    if (!prompt.has_value()) break;
    RETURN_IF_ERROR(conversation.Answer(*prompt));
    if (!session.structured()) session.out() << std::endl;
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> AutomaticChat(Session& session, Conversation& conversation) {
  for (const char* prompt : kPrompts) {
    if (!session.out()) break;
    if (!session.structured()) {
      session.out() << Styled(session.out_terminal(), Style::kBold, absl::StrCat("> ", prompt))
                    << std::endl;
    }
    RETURN_IF_ERROR(conversation.Answer(prompt));
    if (!session.structured()) session.out() << std::endl;
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Chat(Session& session, const ChatFlags& flags) {
  if (flags.history < 0 || flags.history > kMaxHistory || flags.history % 2 != 0) {
    return InvalidArgument(
        "--history", absl::StrCat(flags.history, " is not an even number from 0 to ", kMaxHistory,
                                  ": prompts and answers come in pairs"));
  }
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  bool chat = false;
  if (flags.chat.has_value()) {
    chat = *flags.chat;
  } else {
    ASSIGN_OR_RETURN(chat, TakesChats(session, channel, flags.model));
  }
  if (!chat && (!flags.system.empty() || flags.history > 0 || flags.thinking.has_value())) {
    session.Note(
        "the model continues texts: --system, --history and --thinking say nothing to it (--chat "
        "sends prompts as chat messages all the same)");
  }
  Conversation conversation(session, flags, std::move(channel), chat);
  if (flags.automatic) return AutomaticChat(session, conversation);
  if (isatty(STDIN_FILENO) == 1) return TypedChat(session, conversation);
  return PipedChat(session, conversation);
}

}  // namespace

void AddChatCommand(Registry& registry) {
  const auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = AddCommand(registry, registry.app, "chat",
                                 "Talk with a deployed model, a line a prompt from stdin",
                                 [flags](Session& session) { return Chat(session, *flags); });
  command->add_option("--model", flags->model, "Name of the deployment (needless with only one)")
      ->type_name("NAME");
  command
      ->add_option(
          "--history", flags->history,
          "The last N messages, prompts and answers, go with each prompt; even (default 0)")
      ->type_name("N");
  command->add_option("--system", flags->system, "System message before all others")
      ->type_name("TEXT");
  command->add_flag_function(
      "--thinking,!--no-thinking", [flags](int64_t count) { flags->thinking = count > 0; },
      "Ask the template for thinking, or for none (default: as the template does)");
  command->add_flag_function(
      "--chat,!--no-chat", [flags](int64_t count) { flags->chat = count > 0; },
      "Send prompts as chat messages, or as texts to continue (default: as the model is served)");
  command->add_flag("--auto", flags->automatic,
                    "Ask eight built-in prompts one after the other instead of reading stdin");
  AddGenerationFlags(*command, flags->request,
                     {.seed = "2026 for each prompt", .max_tokens = "8192"});
}

}  // namespace mindforge::cli
