#include "worker/serve/live_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

void SetDuration(absl::Duration duration, google::protobuf::Duration* proto) {
  proto->set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

v1::FinishReason ReasonProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kEos:
      return v1::FINISH_REASON_EOS;
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kMaxTime:
      return v1::FINISH_REASON_MAX_TIME;
    case FinishReason::kCancelled:
    case FinishReason::kFailed:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

absl::Status EngineRefusal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return Error(status.code(), "QUEUE_FULL", std::string(status.message()));
    case absl::StatusCode::kUnavailable:
      return Error(status.code(), "DRAINING", std::string(status.message()));
    case absl::StatusCode::kInvalidArgument:
      return InvalidArgument("request", std::string(status.message()));
    default:
      return status;
  }
}

// One sequence's results on their way from the batcher.
class LiveRequest::Sink : public GenerationSink {
 public:
  Sink(std::shared_ptr<LiveRequest> generation, int32_t index)
      : generation_(std::move(generation)), index_(index) {}

  void OnStarted(const StartedInfo& info) override { generation_->Started(info); }
  void OnPromptLogprobs(const std::vector<PromptTokenInfo>& tokens) override {
    generation_->PromptLogprobs(tokens);
  }
  bool OnToken(const TokenInfo& token) override { return generation_->Token(index_, token); }
  void OnFinished(const FinishedInfo& info) override { generation_->Finished(index_, info); }

 private:
  const std::shared_ptr<LiveRequest> generation_;
  const int32_t index_;
};

LiveRequest::LiveRequest(Env env, GenerationPlan plan)
    : env_(std::move(env)), plan_(std::move(plan)), started_at_(env_.clock->MonotonicNow()) {
  const auto count = static_cast<int32_t>(plan_.sequences.size());
  MutexLock lock(mutex_);
  open_sequences_ = plan_.sequences.size();
  for (int32_t i = 0; i < count; ++i) {
    outputs_.push_back(std::make_unique<SequenceOutput>(*env_.model->tokenizer, plan_.output, i));
  }
  opening_.set_prompt_tokens(static_cast<int32_t>(plan_.sequences.front().prompt.size()));
  opening_.set_seed(plan_.seed);
  opening_.set_weights_version(env_.model->weights_version);
  opening_.set_numerics_id(env_.model->numerics_id);
  opening_.set_worker_id(env_.worker_id);
}

absl::Status LiveRequest::Start(std::function<void()> ready) {
  RETURN_IF_ERROR(SubmitAll());
  // Not before: of a request that is refused half-way nobody may read the half.
  {
    MutexLock lock(ready_mutex_);
    ready_ = std::move(ready);
  }
  Notify();
  return absl::OkStatus();
}

absl::Status LiveRequest::SubmitAll() {
  if (FinishedBefore()) return absl::OkStatus();
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    absl::StatusOr<RequestHandle> handle = env_.engine->Submit(
        plan_.sequences[i], std::make_shared<Sink>(shared_from_this(), static_cast<int32_t>(i)));
    if (!handle.ok()) {
      Cancel();
      return EngineRefusal(handle.status());
    }
    MutexLock lock(mutex_);
    handles_.push_back(*handle);
    if (cancelled_ || ended_) env_.engine->Cancel(*handle);
  }
  return absl::OkStatus();
}

bool LiveRequest::FinishedBefore() {
  const GenerationRequest& sequence = plan_.sequences.front();
  if (sequence.resumed.empty()) return false;
  FinishedInfo info;
  info.prompt_tokens = static_cast<int64_t>(sequence.prompt.size());
  bool over = false;
  {
    MutexLock lock(mutex_);
    for (int32_t id : sequence.resumed) {
      const bool stop = Contains(sequence.stopping.stop_token_ids, id);
      const bool eos =
          !sequence.stopping.ignore_eos && Contains(sequence.stopping.eos_token_ids, id);
      const bool goes_on = outputs_.front()->Replay(id, stop || eos);
      over = stop || eos || !goes_on;
      info.reason = stop  ? FinishReason::kStopToken
                    : eos ? FinishReason::kEos
                          : FinishReason::kStop;
    }
  }
  if (over) Finished(0, info);
  return over;
}

void LiveRequest::Started(const StartedInfo& info) {
  {
    MutexLock lock(mutex_);
    if (!opening_known_) {
      opening_known_ = true;
      opening_.set_cached_tokens(static_cast<int32_t>(info.cached_tokens));
      opening_.set_weights_version(info.weights_version);
      opening_.set_numerics_id(info.numerics_id);
    }
    // With prompt_logprobs the opening waits for them.
    if (plan_.output.prompt_logprobs) return;
    OpenLocked();
  }
  Notify();
}

void LiveRequest::PromptLogprobs(const std::vector<PromptTokenInfo>& tokens) {
  {
    MutexLock lock(mutex_);
    if (opened_) return;
    for (const PromptTokenInfo& token : tokens) {
      *opening_.add_prompt_logprobs() = ToProto(*env_.model->tokenizer, token.token, token.top);
    }
    OpenLocked();
  }
  Notify();
}

bool LiveRequest::Token(int32_t index, const TokenInfo& token) {
  const absl::Duration now = env_.clock->MonotonicNow();
  bool goes_on = true;
  {
    MutexLock lock(mutex_);
    if (ended_ || cancelled_) return true;  // Its Cancel is on the way.
    SequenceOutput& output = *outputs_[index];
    goes_on = output.Add(token, now);
    // The last delta goes out with the finish, which follows at once.
    if (!goes_on || token.ends || !output.Due(now)) return goes_on;
    v1::GenerateResponse event;
    *event.mutable_delta() = output.TakeDelta();
    PushLocked(std::move(event));
  }
  Notify();
  return goes_on;
}

void LiveRequest::Finished(int32_t index, const FinishedInfo& info) {
  const absl::Status end = EndOf(info);
  {
    MutexLock lock(mutex_);
    --open_sequences_;
    if (!ended_ && end.ok()) {
      OpenLocked();
      SequenceOutput& output = *outputs_[index];
      output.End();
      if (output.HasDelta()) {
        v1::GenerateResponse event;
        *event.mutable_delta() = output.TakeDelta();
        PushLocked(std::move(event));
      }
      v1::GenerateResponse event;
      *event.mutable_finished() = FinishedEvent(index, info);
      event.mutable_finished()->mutable_usage()->set_output_tokens(
          static_cast<int32_t>(output.tokens()));
      PushLocked(std::move(event));
    }
    if (info.reason == FinishReason::kCancelled && cancelled_) {
      EndLocked(absl::CancelledError("the caller cancelled"));
    }
    if (!end.ok()) EndLocked(end);
    if (open_sequences_ == 0) EndLocked(absl::OkStatus());
  }
  if (!end.ok()) CancelSequences();
  Notify();
}

absl::Status LiveRequest::EndOf(const FinishedInfo& info) const {
  switch (info.reason) {
    case FinishReason::kFailed:
      return info.status;
    case FinishReason::kCancelled:
      // What a reader's Cancel leads to is known before this is asked.
      return env_.why_stopped ? env_.why_stopped() : absl::UnavailableError("the engine stopped");
    case FinishReason::kMaxTime:
      if (plan_.call_deadline < plan_.max_time_at) {
        return Error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
                     "the call's deadline passed before the generation ended; raise it or lower "
                     "max_new_tokens");
      }
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

v1::GenerationFinished LiveRequest::FinishedEvent(int32_t index, const FinishedInfo& info) const {
  v1::GenerationFinished finished;
  finished.set_index(index);
  finished.set_reason(ReasonProto(info.reason));
  finished.mutable_usage()->set_prompt_tokens(static_cast<int32_t>(info.prompt_tokens));
  finished.mutable_usage()->set_cached_tokens(static_cast<int32_t>(info.cached_tokens));
  v1::GenerationTimings* timings = finished.mutable_timings();
  SetDuration(info.queue_time, timings->mutable_queued());
  SetDuration(info.queue_time + info.prefill_time, timings->mutable_time_to_first_token());
  SetDuration(env_.clock->MonotonicNow() - started_at_, timings->mutable_total());
  return finished;
}

void LiveRequest::OpenLocked() {
  if (opened_) return;
  opened_ = true;
  v1::GenerateResponse event;
  event.mutable_started()->Swap(&opening_);
  std::deque<Waiting> early;
  early.swap(early_);
  PushLocked(std::move(event));
  for (Waiting& later : early) {
    buffered_bytes_ -= later.bytes;
    PushLocked(std::move(later.event));
  }
}

// A reader that is behind gets larger deltas instead of more of them.
bool LiveRequest::MergeLocked(const Waiting& next) {
  const v1::GenerateResponse& event = next.event;
  if (!event.has_delta() || events_.size() < env_.limits.merge_above) return false;
  // The first stays as it is: no limit counts its bytes.
  for (size_t i = events_.size(); i-- > 1;) {
    Waiting& waiting = events_[i];
    if (!waiting.event.has_delta()) return false;
    if (waiting.event.delta().index() != event.delta().index()) continue;
    v1::GenerationDelta* delta = waiting.event.mutable_delta();
    delta->mutable_text()->append(event.delta().text());
    delta->mutable_token_ids()->MergeFrom(event.delta().token_ids());
    delta->mutable_logprobs()->MergeFrom(event.delta().logprobs());
    waiting.bytes += next.bytes;
    return true;
  }
  return false;
}

size_t LiveRequest::BytesBehindTheFirstLocked() const {
  return events_.empty() ? buffered_bytes_ : buffered_bytes_ - events_.front().bytes;
}

void LiveRequest::PushLocked(v1::GenerateResponse event) {
  if (ended_) return;
  Waiting next{.event = std::move(event)};
  next.bytes = next.event.ByteSizeLong();
  const bool last = next.event.has_finished();
  buffered_bytes_ += next.bytes;
  if (!opened_) {
    early_.push_back(std::move(next));
  } else if (!MergeLocked(next)) {
    events_.push_back(std::move(next));
  }
  // An end is no reason to fail what has been generated.
  const size_t behind = BytesBehindTheFirstLocked();
  if (behind <= env_.limits.max_buffered_bytes || last) return;
  EndLocked(Error(
      absl::StatusCode::kResourceExhausted, "SLOW_READER",
      absl::StrCat("the reader is too slow: ", behind,
                   " bytes of output wait for it, the limit is ", env_.limits.max_buffered_bytes,
                   "; read faster, or ask for fewer logprobs")));
  for (RequestHandle handle : handles_) env_.engine->Cancel(handle);
}

void LiveRequest::EndLocked(absl::Status status) {
  if (std::exchange(ended_, true)) return;
  end_ = std::move(status);
  if (absl::IsInternal(end_) || absl::IsUnavailable(end_) || absl::IsUnknown(end_)) {
    MF_LOG(WARNING) << "request '" << plan_.request_id << "' of " << env_.model->deployment
                    << " ended: " << end_.message();
  }
}

void LiveRequest::Notify() {
  {
    MutexLock lock(mutex_);
    if (std::exchange(posted_, true)) return;
  }
  env_.courier->Post(shared_from_this());
}

void LiveRequest::Carry() {
  {
    MutexLock lock(mutex_);
    posted_ = false;
  }
  MutexLock lock(ready_mutex_);
  if (ready_) ready_();
}

LiveRequest::Read LiveRequest::Next(v1::GenerateResponse* event, absl::Status* end) {
  MutexLock lock(mutex_);
  if (!events_.empty()) {
    event->Swap(&events_.front().event);
    buffered_bytes_ -= events_.front().bytes;
    events_.pop_front();
    return Read::kEvent;
  }
  if (!ended_) return Read::kNothingYet;
  *end = end_;
  return Read::kEnd;
}

void LiveRequest::Cancel() {
  {
    MutexLock lock(mutex_);
    if (ended_) return;
    cancelled_ = true;
  }
  CancelSequences();
}

void LiveRequest::CancelSequences() {
  std::vector<RequestHandle> handles;
  {
    MutexLock lock(mutex_);
    handles = handles_;
  }
  for (RequestHandle handle : handles) env_.engine->Cancel(handle);
}

void LiveRequest::Detach() {
  MutexLock lock(ready_mutex_);
  ready_ = nullptr;
}

}  // namespace mindforge
