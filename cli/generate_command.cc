// `mindforge generate`: one prompt, its continuation on stdout as it comes.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/app.h"
#include "cli/generation.h"
#include "cli/table.h"
#include "common/error_details.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

constexpr size_t kMaxPromptBytes = 8 << 20;

struct GenerateFlags {
  std::string model;
  std::optional<std::string> prompt;
  std::string system;
  std::optional<bool> chat;
  std::optional<bool> thinking;
  bool no_stream = false;
  std::optional<int> logprobs;
  // What the other flags set.
  std::shared_ptr<v1::GenerateRequest> request = std::make_shared<v1::GenerateRequest>();
};

absl::StatusOr<std::string> ReadPrompt(Session& session, const GenerateFlags& flags) {
  if (flags.prompt.has_value()) return *flags.prompt;
  if (isatty(STDIN_FILENO) == 1) session.Note("reading the prompt from stdin; Ctrl-D ends it");
  std::string text;
  char buffer[4096];
  while (std::cin.read(buffer, sizeof(buffer)) || std::cin.gcount() > 0) {
    text.append(buffer, std::cin.gcount());
    if (text.size() > kMaxPromptBytes) {
      return InvalidArgument("stdin", "the prompt is over 8 MiB, more than any context holds");
    }
  }
  // The newline that ends a line of the shell is not part of the prompt.
  return std::string(absl::StripSuffix(text, "\n"));
}

// Whether the prompt is a chat message: as --chat says, else as the model is served. A server that
// cannot be asked takes text; Generate itself then says what is wrong with it.
bool WantsChat(Session& session, const std::shared_ptr<grpc::Channel>& channel,
               const GenerateFlags& flags) {
  if (flags.chat.has_value()) return *flags.chat;
  if (!flags.system.empty() || flags.thinking.has_value()) return true;
  return TakesChats(session, channel, flags.model).value_or(false);
}

void SetPrompt(v1::GenerateRequest& request, bool chat, const GenerateFlags& flags,
               const std::string& text) {
  if (!chat) {
    request.set_text(text);
    // Without it a model that is served for chats would take the text for a message.
    if (flags.chat.has_value() && !*flags.chat) request.set_add_bos(true);
    return;
  }
  if (!flags.system.empty()) AddMessage(*request.mutable_chat(), "system", flags.system);
  AddMessage(*request.mutable_chat(), "user", text);
  if (flags.thinking.has_value()) request.mutable_chat()->set_enable_thinking(*flags.thinking);
}

// A token as it stands in a line: quoted, with what a terminal would not show escaped.
std::string Quoted(const std::string& token) {
  std::string text = "'";
  for (const char c : token) {
    if (c == '\n') {
      text += "\\n";
    } else if (c == '\t') {
      text += "\\t";
    } else {
      text += c;
    }
  }
  return EscapeControls(text + "'");
}

void PrintLogprobs(Session& session, const std::vector<v1::TokenLogprob>& logprobs, int top) {
  session.out() << "\n";
  std::vector<Column> columns = {
      {.title = "TOKEN"}, {.title = "ID", .right = true}, {.title = "LOGPROB", .right = true}};
  if (top > 0) columns.push_back({.title = "LIKELIEST", .shrinks = true});
  Table table(columns);
  for (const v1::TokenLogprob& token : logprobs) {
    std::string likeliest;
    for (const v1::TokenLogprob& other : token.top()) {
      absl::StrAppend(&likeliest, likeliest.empty() ? "" : ", ", Quoted(other.token()),
                      absl::StrFormat(" %.4f", other.logprob()));
    }
    std::vector<Cell> row = {Quoted(token.token()), absl::StrCat(token.token_id()),
                             absl::StrFormat("%.6f", token.logprob())};
    if (top > 0) row.push_back(likeliest);
    table.AddRow(std::move(row));
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

absl::StatusOr<ExitCode> Close(Session& session, const Outcome& outcome,
                               std::optional<int> logprobs) {
  EndLine(session, outcome);
  if (logprobs.has_value()) PrintLogprobs(session, outcome.logprobs, *logprobs);
  session.out() << std::flush;
  if (outcome.finished.reason() == v1::FINISH_REASON_CANCELLED) {
    return absl::AbortedError("the server cancelled the generation; try again");
  }
  if (session.err_terminal().is_terminal) {
    session.Note(absl::StrCat(SpeedNote(outcome.finished), ", seed ", outcome.started.seed(),
                              ", weights ", outcome.started.weights_version()));
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Generate(Session& session, const GenerateFlags& flags) {
  ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(session, flags));
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  v1::GenerateRequest request = *flags.request;
  request.set_request_id(RandomUuid());
  request.set_model(flags.model);
  if (flags.logprobs.has_value()) {
    request.mutable_output()->set_logprobs(true);
    request.mutable_output()->set_top_logprobs(*flags.logprobs);
  }
  SetPrompt(request, WantsChat(session, channel, flags), flags, prompt);
  const auto stub = v1::InferenceService::NewStub(channel);
  Outcome outcome;
  if (session.structured() || flags.no_stream) {
    ASSIGN_OR_RETURN(const v1::GenerateUnaryResponse response,
                     GenerateWhole(session, *stub, request));
    if (session.structured()) {
      session.PrintMessage(response);
      return ExitCode::kOk;
    }
    outcome.started = response.started();
    for (const v1::GenerationResult& result : response.results()) {
      PrintText(session, result.text(), outcome);
      outcome.finished = result.finished();
      outcome.logprobs.assign(result.logprobs().begin(), result.logprobs().end());
    }
  } else if (const absl::Status status = StreamText(session, *stub, request, outcome);
             !status.ok()) {
    EndLine(session, outcome);
    return status;
  }
  return Close(session, outcome, flags.logprobs);
}

}  // namespace

void AddGenerateCommand(Registry& registry) {
  const auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command =
      AddCommand(registry, registry.app, "generate", "Continue a prompt with a deployed model",
                 [flags](Session& session) { return Generate(session, *flags); });
  command->add_option("--model", flags->model, "Name of the deployment (needless with only one)")
      ->type_name("NAME");
  command->add_option("-p,--prompt", flags->prompt, "The prompt; without it stdin is read")
      ->type_name("TEXT");
  AddGenerationFlags(*command, flags->request,
                     {.seed = "drawn", .max_tokens = "what the context leaves"});
  command
      ->add_option("--logprobs", flags->logprobs,
                   "Also print each token's log-probability, and the N likeliest tokens' (0 to 20)")
      ->type_name("N");
  command->add_flag("--no-stream", flags->no_stream, "Print the text when it is complete");
  command->add_flag_function(
      "--chat,!--no-chat", [flags](int64_t count) { flags->chat = count > 0; },
      "Send the prompt as a chat message, or as plain text (default: as the model was deployed)");
  command->add_option("--system", flags->system, "System message before a chat prompt")
      ->type_name("TEXT");
  command->add_flag_function(
      "--thinking,!--no-thinking", [flags](int64_t count) { flags->thinking = count > 0; },
      "Ask a chat prompt's template for thinking, or for none (default: as the template does)");
}

}  // namespace mindforge::cli
