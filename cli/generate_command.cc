// `mindforge generate`: one prompt, its continuation on stdout as it comes.
#include <unistd.h>

#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/stream.h"
#include "cli/table.h"
#include "common/error_details.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/deployment_service.grpc.pb.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

using v1::InferenceService;

constexpr size_t kMaxPromptBytes = 8 << 20;
// Only to look up the deployment's prompt style: not worth a long wait.
constexpr absl::Duration kStyleTimeout = absl::Seconds(5);

struct GenerateFlags {
  std::string model;
  std::optional<std::string> prompt;
  std::string system;
  std::optional<bool> chat;
  bool no_stream = false;
  std::optional<int> logprobs;
  v1::GenerateRequest request;  // what the other flags set
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

// Whether the prompt is a chat message: as --chat says, else as the deployment's style does. A
// server that knows no deployments (an inference worker by itself) takes text.
bool WantsChat(Session& session, const std::shared_ptr<grpc::Channel>& channel,
               const GenerateFlags& flags) {
  if (flags.chat.has_value()) return *flags.chat;
  if (!flags.system.empty()) return true;
  const auto stub = v1::DeploymentService::NewStub(channel);
  const CallOptions call = {.what = "look up the model", .timeout = kStyleTimeout};
  const auto listed = Call(session, call, *stub, &v1::DeploymentService::Stub::ListDeployments,
                           v1::ListDeploymentsRequest());
  if (!listed.ok()) return false;  // Generate itself says what is wrong with the server
  for (const v1::Deployment& one : listed->deployments()) {
    const bool meant =
        flags.model.empty() ? listed->deployments_size() == 1 : one.spec().name() == flags.model;
    if (meant) return one.spec().prompt_style() == v1::PROMPT_STYLE_CHAT;
  }
  return false;
}

void SetPrompt(v1::GenerateRequest& request, bool chat, const std::string& system,
               const std::string& text) {
  if (!chat) {
    request.set_text(text);
    return;
  }
  if (!system.empty()) {
    v1::ChatMessage& message = *request.mutable_chat()->add_messages();
    message.set_role("system");
    message.set_content(system);
  }
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content(text);
}

std::string ReasonName(v1::FinishReason reason) {
  const std::string name = v1::FinishReason_Name(reason);
  if (name.empty()) return absl::StrCat(static_cast<int>(reason));
  return absl::AsciiStrToLower(absl::StripPrefix(name, "FINISH_REASON_"));
}

void PrintLogprobs(Session& session, const std::vector<v1::TokenLogprob>& logprobs) {
  session.out() << "\n";
  Table table({{.title = "TOKEN", .right = true},
               {.title = "LOGPROB", .right = true},
               {.title = "LIKELIEST (ID LOGPROB)", .shrinks = true}});
  for (const v1::TokenLogprob& token : logprobs) {
    std::string top;
    for (const v1::TokenLogprob& other : token.top()) {
      absl::StrAppend(&top, top.empty() ? "" : ", ",
                      absl::StrFormat("%d %.4f", other.token_id(), other.logprob()));
    }
    table.AddRow({absl::StrCat(token.token_id()), absl::StrFormat("%.6f", token.logprob()), top});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

// What a generation left, besides its text.
struct Outcome {
  v1::GenerationStarted started;
  v1::GenerationFinished finished;
  std::vector<v1::TokenLogprob> logprobs;
  bool ends_line = true;  // the text's last character was a newline, or there was no text
};

void PrintText(Session& session, const std::string& text, Outcome& outcome) {
  if (text.empty()) return;
  session.out() << (session.out_terminal().is_terminal ? EscapeControls(text) : text) << std::flush;
  outcome.ends_line = text.back() == '\n';
}

absl::Status Stream(Session& session, InferenceService::Stub& stub,
                    const v1::GenerateRequest& request, Outcome& outcome) {
  bool finished = false;
  absl::Status status = ReadStream<v1::GenerateResponse>(
      session, {.what = "generate"},
      [&](grpc::ClientContext* context) { return stub.Generate(context, request); },
      [&](const v1::GenerateResponse& response) {
        if (response.has_started()) outcome.started = response.started();
        if (response.has_delta()) {
          const v1::GenerationDelta& delta = response.delta();
          PrintText(session, delta.text(), outcome);
          outcome.logprobs.insert(outcome.logprobs.end(), delta.logprobs().begin(),
                                  delta.logprobs().end());
        }
        if (response.has_finished()) {
          outcome.finished = response.finished();
          finished = true;
        }
        // A reader that is gone (`| head`) needs no more tokens: the server's slot is freed.
        return static_cast<bool>(session.out());
      });
  if (status.ok() && !finished && session.out()) {
    status = absl::UnavailableError("cannot generate: the stream ended before the text was done");
  }
  return status;
}

absl::StatusOr<v1::GenerateUnaryResponse> Unary(Session& session, InferenceService::Stub& stub,
                                                const v1::GenerateRequest& request) {
  v1::GenerateUnaryRequest unary;
  *unary.mutable_request() = request;
  return Call(session, {.what = "generate", .timeout = kStreamTimeout}, stub,
              &InferenceService::Stub::GenerateUnary, unary);
}

absl::StatusOr<ExitCode> Close(Session& session, const Outcome& outcome, bool logprobs) {
  if (!outcome.ends_line) session.out() << "\n";
  if (logprobs) PrintLogprobs(session, outcome.logprobs);
  session.out() << std::flush;
  const v1::GenerationFinished& finished = outcome.finished;
  if (finished.reason() == v1::FINISH_REASON_CANCELLED) {
    return absl::AbortedError("the server cancelled the generation; try again");
  }
  if (session.err_terminal().is_terminal) {
    const absl::Duration total = ToDuration(finished.timings().total());
    const int tokens = finished.usage().output_tokens();
    std::string note = absl::StrCat(ReasonName(finished.reason()), ", ", tokens, " tokens");
    if (total > absl::ZeroDuration()) {
      absl::StrAppend(
          &note, absl::StrFormat(", %.1f tokens/s", tokens / absl::ToDoubleSeconds(total)),
          ", first after ", ShortDuration(ToDuration(finished.timings().time_to_first_token())));
    }
    absl::StrAppend(&note, ", seed ", outcome.started.seed(), ", weights ",
                    outcome.started.weights_version());
    session.Note(note);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Generate(Session& session, const GenerateFlags& flags) {
  ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(session, flags));
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  v1::GenerateRequest request = flags.request;
  request.set_request_id(RandomUuid());
  request.set_model(flags.model);
  if (flags.logprobs.has_value()) {
    request.mutable_output()->set_logprobs(true);
    request.mutable_output()->set_top_logprobs(*flags.logprobs);
  }
  SetPrompt(request, WantsChat(session, channel, flags), flags.system, prompt);
  const auto stub = InferenceService::NewStub(channel);
  Outcome outcome;
  if (session.structured() || flags.no_stream) {
    ASSIGN_OR_RETURN(const v1::GenerateUnaryResponse response, Unary(session, *stub, request));
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
  } else if (const absl::Status status = Stream(session, *stub, request, outcome); !status.ok()) {
    if (!outcome.ends_line) session.out() << std::endl;
    return status;
  }
  return Close(session, outcome, flags.logprobs.has_value());
}

void AddSamplingFlags(CLI::App& command, const std::shared_ptr<GenerateFlags>& flags) {
  const auto real = [&](const char* name, const char* help,
                        void (*set)(v1::GenerateRequest&, double)) {
    command
        .add_option_function<double>(
            name, [flags, set](double value) { set(flags->request, value); }, help)
        ->type_name("X");
  };
  real("--temperature", "0: greedy (default 0.85)", [](v1::GenerateRequest& request, double value) {
    request.mutable_sampling()->set_temperature(value);
  });
  real("--top-p", "Smallest set of tokens with this probability; 1: all (default 0.85)",
       [](v1::GenerateRequest& request, double value) {
         request.mutable_sampling()->set_top_p(value);
       });
  real("--min-p", "Drop tokens below this share of the likeliest; 0: none (default)",
       [](v1::GenerateRequest& request, double value) {
         request.mutable_sampling()->set_min_p(value);
       });
  real("--repetition-penalty", "Over prompt and output; 1: none (default)",
       [](v1::GenerateRequest& request, double value) { request.set_repetition_penalty(value); });
  command
      .add_option_function<int>(
          "--top-k", [flags](int k) { flags->request.mutable_sampling()->set_top_k(k); },
          "The so many likeliest tokens; 0: all (default 50)")
      ->type_name("K");
  command
      .add_option_function<uint64_t>(
          "--seed", [flags](uint64_t seed) { flags->request.mutable_sampling()->set_seed(seed); },
          "The same seed gives the same text (default: drawn)")
      ->type_name("N");
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
  command
      ->add_option_function<int>(
          "--max-tokens",
          [flags](int n) { flags->request.mutable_stopping()->set_max_new_tokens(n); },
          "Most tokens to generate (default: what the context leaves)")
      ->type_name("N");
  AddSamplingFlags(*command, flags);
  command
      ->add_option_function<std::vector<std::string>>(
          "--stop",
          [flags](const std::vector<std::string>& stops) {
            for (const std::string& stop : stops) {
              flags->request.mutable_stopping()->add_stop_strings(stop);
            }
          },
          "Stop before this text; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command
      ->add_option("--logprobs", flags->logprobs,
                   "Also print each token's log-probability, and the N likeliest tokens'")
      ->type_name("N");
  command->add_flag("--no-stream", flags->no_stream, "Print the text when it is complete");
  command->add_flag_function(
      "--chat,!--no-chat", [flags](int64_t count) { flags->chat = count > 0; },
      "Send the prompt as a chat message, or as plain text (default: as the model was deployed)");
  command->add_option("--system", flags->system, "System message before a chat prompt")
      ->type_name("TEXT");
}

}  // namespace mindforge::cli
