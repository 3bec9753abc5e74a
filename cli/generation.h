// What `generate` and `chat` share: the flags of a generation, the stream printed as it comes, and
// whether a model takes chats.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/session.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge::cli {

// --temperature, --top-p, --min-p, --repetition-penalty, --top-k, --seed, --max-tokens and --stop,
// which set the request's fields. `defaults` are the words for the two defaults that differ.
struct GenerationDefaults {
  const char* seed;
  const char* max_tokens;
};
void AddGenerationFlags(CLI::App& command, const std::shared_ptr<v1::GenerateRequest>& request,
                        const GenerationDefaults& defaults);

// Whether the model, as it is served, takes a text for a chat message. An error when the server
// cannot be asked.
absl::StatusOr<bool> TakesChats(Session& session, const std::shared_ptr<grpc::Channel>& channel,
                                const std::string& model);

void AddMessage(v1::ChatMessages& chat, const std::string& role, const std::string& content);

// What a generation left.
struct Outcome {
  v1::GenerationStarted started;
  v1::GenerationFinished finished;
  std::string text;
  std::vector<v1::TokenLogprob> logprobs;
};

// Prints a piece of text on stdout and keeps it.
void PrintText(Session& session, const std::string& text, Outcome& outcome);
// Ends the line of what was printed, where it has not ended.
void EndLine(Session& session, const Outcome& outcome);

// Generates and prints the text as it comes. An error leaves what came before it in `outcome`.
// `stop`, when given and true, ends it with an error at the next piece: for who cancels the call,
// perhaps before it began.
absl::Status StreamText(Session& session, v1::InferenceService::Stub& stub,
                        const v1::GenerateRequest& request, Outcome& outcome,
                        const std::atomic<bool>* stop = nullptr);
absl::StatusOr<v1::GenerateUnaryResponse> GenerateWhole(Session& session,
                                                        v1::InferenceService::Stub& stub,
                                                        const v1::GenerateRequest& request);

// "eos, 42 tokens, 31.5 tokens/s, first after 20ms", by the server's timings.
std::string SpeedNote(const v1::GenerationFinished& finished);

}  // namespace mindforge::cli
