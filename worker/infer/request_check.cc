#include "worker/infer/request_check.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

absl::Status CheckIds(absl::string_view what, const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        what, "[", i, "] is ", ids[i], "; the vocabulary has ids 0 to ", vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::Status CheckRange(absl::string_view what, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is ", value, "; it must be from ", low, " to ", high));
}

absl::Status CheckSampling(const SamplingParams& sampling) {
  RETURN_IF_ERROR(CheckRange("temperature", sampling.temperature, 0, 100));
  RETURN_IF_ERROR(CheckRange("top_p", sampling.top_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("min_p", sampling.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", sampling.repetition_penalty, 0.01, 100));
  RETURN_IF_ERROR(CheckRange("presence_penalty", sampling.presence_penalty, -100, 100));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", sampling.frequency_penalty, -100, 100));
  if (sampling.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", sampling.top_k, "; it must be 0 (off) or more"));
  }
  return absl::OkStatus();
}

absl::Status CheckStopping(const StoppingParams& stopping, int64_t vocab_size) {
  if (stopping.max_new_tokens < 0 || stopping.min_new_tokens < 0 ||
      stopping.min_new_tokens > stopping.max_new_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "min_new_tokens ", stopping.min_new_tokens, " and max_new_tokens ", stopping.max_new_tokens,
        ": both must be 0 or more and the first at most the second"));
  }
  RETURN_IF_ERROR(CheckIds("eos_token_ids", stopping.eos_token_ids, vocab_size));
  RETURN_IF_ERROR(CheckIds("stop_token_ids", stopping.stop_token_ids, vocab_size));
  const auto ends =
      static_cast<int64_t>(stopping.eos_token_ids.size() + stopping.stop_token_ids.size());
  if (stopping.min_new_tokens > 0 && ends >= vocab_size) {
    return absl::InvalidArgumentError(
        "min_new_tokens cannot be met: every token of the vocabulary may be an end");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const GenerationRequest& request, const EngineModel& model) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const auto resumed = static_cast<int64_t>(request.resumed.size());
  if (prompt == 0) {
    return absl::InvalidArgumentError(
        "the prompt is empty; send at least one token (add_bos gives one)");
  }
  if (prompt >= model.max_context || prompt + resumed > model.max_context) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt of ", prompt, " tokens",
        resumed > 0 ? absl::StrCat(" and ", resumed, " resumed ones") : "",
        " leaves no room in the context of ", model.max_context, " tokens; shorten it"));
  }
  RETURN_IF_ERROR(CheckIds("prompt", request.prompt, model.vocab_size));
  RETURN_IF_ERROR(CheckIds("resume_token_ids", request.resumed, model.vocab_size));
  if (request.top_logprobs < 0 || request.top_logprobs > kMaxTopLogprobs) {
    return absl::InvalidArgumentError(absl::StrCat("top_logprobs is ", request.top_logprobs,
                                                   "; it must be from 0 to ", kMaxTopLogprobs));
  }
  RETURN_IF_ERROR(CheckSampling(request.sampling));
  return CheckStopping(request.stopping, model.vocab_size);
}

}  // namespace mindforge
