// A GenerateRequest checked and turned into what the engine takes. Every problem of a request is
// reported at once, by field.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mindforge/v1/inference_service.pb.h"
#include "worker/infer/engine.h"
#include "worker/serve/field_checker.h"
#include "worker/serve/served_model.h"

namespace mindforge {

// How a sequence's output is turned into deltas.
struct OutputPlan {
  bool token_ids = true;
  bool logprobs = false;
  bool prompt_logprobs = false;
  int64_t flush_tokens = 1;
  absl::Duration flush_interval = absl::InfiniteDuration();
  std::vector<std::string> stop_strings;
  int64_t min_new_tokens = 0;  // stop strings count from there on
};

struct GenerationPlan {
  std::string request_id;
  std::vector<GenerationRequest> sequences;
  OutputPlan output;
  uint64_t seed = 0;
  absl::Time max_time_at = absl::InfiniteFuture();
  absl::Time call_deadline = absl::InfiniteFuture();
};

struct PlanContext {
  absl::Time now;
  absl::Time call_deadline = absl::InfiniteFuture();
  uint64_t random_seed = 0;  // for requests that bring none
};

// The most that a request's or a model's limit on tokens can be.
inline constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();

// What a request asks for and what a model's folder says where it does not.
void CheckSampling(const SamplingParams& sampling, const std::string& prefix, FieldChecker* check);
void CheckRepetitionPenalty(double penalty, FieldChecker* check);

// INVALID_ARGUMENT with a BadRequest violation for each wrong field.
absl::StatusOr<GenerationPlan> PlanGeneration(const v1::GenerateRequest& request,
                                              const ServedModel& model, const PlanContext& context);

// The ids of messages rendered by the model's chat template, ready for an answer; special tokens in
// what the caller wrote are text unless he asks otherwise. Errors are violations of `field`.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const v1::ChatMessages& chat,
                                                const ServedModel& model, const std::string& field);

}  // namespace mindforge
