#include "cli/generation.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/format.h"
#include "cli/stream.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace mindforge::cli {
namespace {

using v1::InferenceService;

std::string ReasonName(v1::FinishReason reason) {
  const std::string name = v1::FinishReason_Name(reason);
  if (name.empty()) return absl::StrCat(static_cast<int>(reason));
  return absl::AsciiStrToLower(absl::StripPrefix(name, "FINISH_REASON_"));
}

}  // namespace

void AddGenerationFlags(CLI::App& command, const std::shared_ptr<v1::GenerateRequest>& request,
                        const GenerationDefaults& defaults) {
  const auto real = [&](const char* name, const char* help,
                        void (*set)(v1::GenerateRequest&, double)) {
    command
        .add_option_function<double>(
            name, [request, set](double value) { set(*request, value); }, help)
        ->type_name("X");
  };
  command
      .add_option_function<int>(
          "--max-tokens", [request](int n) { request->mutable_stopping()->set_max_new_tokens(n); },
          absl::StrCat("Most tokens to generate (default: ", defaults.max_tokens, ")"))
      ->type_name("N");
  real("--temperature", "0: greedy (default 0.85)", [](v1::GenerateRequest& to, double value) {
    to.mutable_sampling()->set_temperature(value);
  });
  real("--top-p", "Smallest set of tokens with this probability; 1: all (default 0.85)",
       [](v1::GenerateRequest& to, double value) { to.mutable_sampling()->set_top_p(value); });
  real("--min-p", "Drop tokens below this share of the likeliest; 0: none (default)",
       [](v1::GenerateRequest& to, double value) { to.mutable_sampling()->set_min_p(value); });
  real("--repetition-penalty", "Over prompt and output; 1: none (default)",
       [](v1::GenerateRequest& to, double value) { to.set_repetition_penalty(value); });
  command
      .add_option_function<int>(
          "--top-k", [request](int k) { request->mutable_sampling()->set_top_k(k); },
          "The so many likeliest tokens; 0: all (default 50)")
      ->type_name("K");
  command
      .add_option_function<uint64_t>(
          "--seed", [request](uint64_t seed) { request->mutable_sampling()->set_seed(seed); },
          absl::StrCat("The same seed gives the same text (default: ", defaults.seed, ")"))
      ->type_name("N");
  command
      .add_option_function<std::vector<std::string>>(
          "--stop",
          [request](const std::vector<std::string>& stops) {
            for (const std::string& stop : stops) {
              request->mutable_stopping()->add_stop_strings(stop);
            }
          },
          "Stop before this text; repeatable")
      ->type_name("TEXT")
      ->allow_extra_args(false);
}

absl::StatusOr<bool> TakesChats(Session& session, const std::shared_ptr<grpc::Channel>& channel,
                                const std::string& model) {
  const auto stub = InferenceService::NewStub(channel);
  v1::GetModelInfoRequest request;
  request.set_model(model);
  const std::string what = model.empty() ? "look up the model" : absl::StrCat("look up ", model);
  ASSIGN_OR_RETURN(
      const v1::GetModelInfoResponse info,
      Call(session, {.what = what}, *stub, &InferenceService::Stub::GetModelInfo, request));
  return info.prompt_style() == v1::PROMPT_STYLE_CHAT;
}

void AddMessage(v1::ChatMessages& chat, const std::string& role, const std::string& content) {
  v1::ChatMessage& message = *chat.add_messages();
  message.set_role(role);
  message.set_content(content);
}

void PrintText(Session& session, const std::string& text, Outcome& outcome) {
  if (text.empty()) return;
  session.out() << (session.out_terminal().is_terminal ? EscapeControls(text) : text) << std::flush;
  outcome.text += text;
}

void EndLine(Session& session, const Outcome& outcome) {
  if (!outcome.text.empty() && outcome.text.back() != '\n') session.out() << std::endl;
}

absl::Status StreamText(Session& session, InferenceService::Stub& stub,
                        const v1::GenerateRequest& request, Outcome& outcome,
                        const std::atomic<bool>* stop) {
  RETURN_IF_ERROR(CheckText(request));
  bool finished = false;
  absl::Status status = ReadStream<v1::GenerateResponse>(
      session, {.what = "generate"},
      [&](grpc::ClientContext* context) { return stub.Generate(context, request); },
      [&](const v1::GenerateResponse& response) {
        if (stop != nullptr && *stop) return false;
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
    status = OfServer(
        absl::UnavailableError("cannot generate: the stream ended before the text was done"));
  }
  return status;
}

absl::StatusOr<v1::GenerateUnaryResponse> GenerateWhole(Session& session,
                                                        InferenceService::Stub& stub,
                                                        const v1::GenerateRequest& request) {
  v1::GenerateUnaryRequest unary;
  *unary.mutable_request() = request;
  return Call(session, {.what = "generate", .timeout = kStreamTimeout}, stub,
              &InferenceService::Stub::GenerateUnary, unary);
}

std::string SpeedNote(const v1::GenerationFinished& finished) {
  // A rate is of the tokens after the first, by the server's clock: neither the queue, the prompt
  // nor the way here is part of it, and a single token has none.
  const absl::Duration first = ToDuration(finished.timings().time_to_first_token());
  const absl::Duration decoding = ToDuration(finished.timings().total()) - first;
  const int tokens = finished.usage().output_tokens();
  std::string note =
      absl::StrCat(ReasonName(finished.reason()), ", ", tokens, tokens == 1 ? " token" : " tokens");
  if (tokens > 1 && decoding > absl::ZeroDuration()) {
    absl::StrAppend(
        &note, absl::StrFormat(", %.1f tokens/s", (tokens - 1) / absl::ToDoubleSeconds(decoding)));
  }
  if (first > absl::ZeroDuration()) absl::StrAppend(&note, ", first after ", ShortDuration(first));
  return note;
}

}  // namespace mindforge::cli
