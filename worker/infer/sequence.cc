#include "worker/infer/sequence.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace mindforge {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

}  // namespace

Sequence::Sequence(uint64_t id, GenerationRequest request, std::shared_ptr<GenerationSink> sink,
                   const Clock& clock, EngineObserver* observer)
    : id_(id),
      request_(std::move(request)),
      sink_(std::move(sink)),
      clock_(clock),
      observer_(observer),
      submitted_(clock.MonotonicNow()) {}

void Sequence::Start(const ModelRunner& model, const std::string& weights_version, int64_t slot) {
  slot_ = slot;
  vocab_size_ = model.vocab_size();
  max_context_ = model.max_context();
  admitted_ = clock_.MonotonicNow();
  std::vector<int32_t> blocked = request_.stopping.stop_token_ids;
  blocked.insert(blocked.end(), request_.stopping.eos_token_ids.begin(),
                 request_.stopping.eos_token_ids.end());
  sampler_.emplace(request_.sampling, vocab_size_, std::move(blocked));
  sampler_->SeePrompt(request_.prompt);
  for (int32_t token : request_.resumed) sampler_->SeeOutput(token);
  tokens_ = request_.prompt;
  tokens_.insert(tokens_.end(), request_.resumed.begin(), request_.resumed.end());
  if (observer_ != nullptr) observer_->OnAdmitted(admitted_ - submitted_);
  sink_->OnStarted({.prompt_tokens = static_cast<int64_t>(request_.prompt.size()),
                    .cached_tokens = 0,
                    .weights_version = weights_version,
                    .numerics_id = model.numerics_id()});
}

int64_t Sequence::OutputCount() const {
  return static_cast<int64_t>(request_.resumed.size()) + generated_;
}

StepRow Sequence::NextRow(int64_t budget) const {
  const int64_t count = std::min(pending(), budget);
  const bool scores =
      request_.prompt_logprobs && prompt_scores_.size() + 1 < request_.prompt.size();
  StepRow row{.slot = slot_,
              .start_position = computed_,
              .tokens = absl::MakeConstSpan(tokens_).subspan(computed_, count)};
  row.logits = scores ? count : count == pending() ? 1 : 0;
  return row;
}

void Sequence::ScorePrompt(const StepRow& row, const float* logits) {
  // Position i scores the prompt's token i + 1.
  for (int64_t i = 0; i < row.logits; ++i) {
    const int64_t next = row.start_position + i + 1;
    if (next >= static_cast<int64_t>(request_.prompt.size())) return;
    const RawLogprobs raw(absl::MakeConstSpan(logits + i * vocab_size_, vocab_size_));
    PromptTokenInfo info{.token = raw.Of(request_.prompt[next])};
    if (request_.top_logprobs > 0) info.top = raw.Top(request_.top_logprobs);
    prompt_scores_.push_back(std::move(info));
  }
}

std::optional<SequenceEnd> Sequence::Take(const StepRow& row, const float* logits) {
  const bool prompt_ends = request_.prompt_logprobs &&
                           computed_ < static_cast<int64_t>(request_.prompt.size()) &&
                           computed_ + static_cast<int64_t>(row.tokens.size()) >=
                               static_cast<int64_t>(request_.prompt.size());
  if (request_.prompt_logprobs && generated_ == 0) ScorePrompt(row, logits);
  if (prompt_ends) {
    sink_->OnPromptLogprobs(prompt_scores_);
    std::vector<PromptTokenInfo>().swap(prompt_scores_);
    request_.prompt_logprobs = false;
  }
  computed_ += static_cast<int64_t>(row.tokens.size());
  if (pending() > 0) return std::nullopt;
  if (std::optional<SequenceEnd> end = AtLimit()) return end;
  return Draw(logits + (row.logits - 1) * vocab_size_);
}

std::optional<SequenceEnd> Sequence::AtLimit() const {
  if (OutputCount() >= request_.stopping.max_new_tokens ||
      static_cast<int64_t>(tokens_.size()) >= max_context_) {
    return SequenceEnd{FinishReason::kLength, absl::OkStatus()};
  }
  return std::nullopt;
}

std::optional<SequenceEnd> Sequence::EndedBy(int32_t token) const {
  if (Contains(request_.stopping.stop_token_ids, token)) {
    return SequenceEnd{FinishReason::kStopToken, absl::OkStatus()};
  }
  if (!request_.stopping.ignore_eos && Contains(request_.stopping.eos_token_ids, token)) {
    return SequenceEnd{FinishReason::kEos, absl::OkStatus()};
  }
  return std::nullopt;
}

std::optional<SequenceEnd> Sequence::Draw(const float* logits) {
  const bool block = OutputCount() < request_.stopping.min_new_tokens;
  absl::StatusOr<int32_t> token = sampler_->Choose(logits, tokens_.size(), block);
  if (!token.ok()) return SequenceEnd{FinishReason::kFailed, token.status()};
  tokens_.push_back(*token);
  sampler_->SeeOutput(*token);
  ++generated_;

  const absl::Duration now = clock_.MonotonicNow();
  if (generated_ == 1) first_token_ = now;
  if (observer_ != nullptr) {
    if (generated_ == 1) {
      observer_->OnFirstToken(now - submitted_);
    } else {
      observer_->OnInterToken(now - last_token_);
    }
  }
  last_token_ = now;

  std::optional<SequenceEnd> end = EndedBy(*token);
  TokenInfo info{.token = *token, .index = OutputCount() - 1, .ends = end.has_value()};
  if (request_.logprobs || request_.top_logprobs > 0) {
    const RawLogprobs raw(absl::MakeConstSpan(logits, vocab_size_));
    info.logprob = raw.Of(*token).logprob;
    if (request_.top_logprobs > 0) info.top = raw.Top(request_.top_logprobs);
  }
  const bool goes_on = sink_->OnToken(info);
  if (end.has_value()) return end;
  if (!goes_on) return SequenceEnd{FinishReason::kStop, absl::OkStatus()};
  return AtLimit();
}

void Sequence::Finish(const SequenceEnd& end) {
  MF_CHECK_EQ(end.reason == FinishReason::kFailed, !end.status.ok());
  const bool admitted = slot_ >= 0;
  const absl::Duration now = clock_.MonotonicNow();
  FinishedInfo info{.reason = end.reason,
                    .status = end.status,
                    .prompt_tokens = static_cast<int64_t>(request_.prompt.size()),
                    .generated_tokens = generated_,
                    .queue_time = (admitted ? admitted_ : now) - submitted_};
  if (admitted) info.prefill_time = (generated_ > 0 ? first_token_ : now) - admitted_;
  if (generated_ > 0) info.decode_time = last_token_ - first_token_;
  sink_->OnFinished(info);
  if (observer_ != nullptr) observer_->OnRequestFinished(info);
}

}  // namespace mindforge
