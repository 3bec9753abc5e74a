#include "coordinator/gateway/generate_forward.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/numerics_id.h"
#include "common/server_stream.h"
#include "common/strings.h"
#include "coordinator/gateway/chat_needs.h"
#include "coordinator/gateway/worker_failure.h"

namespace mindforge {
namespace {

constexpr size_t kMostLoggedId = 256;  // bytes

void SetDuration(absl::Duration duration, google::protobuf::Duration& proto) {
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

class Forward;

// The call to one worker. Deletes itself when gRPC is done with it.
class Attempt : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Attempt(std::shared_ptr<Forward> forward, std::unique_ptr<WorkerLease> lease,
          const v1::GenerateRequest& request, std::chrono::system_clock::time_point deadline)
      : forward_(std::move(forward)), lease_(std::move(lease)), request_(request) {
    context_.set_deadline(deadline);
  }

  void Start() {
    lease_->stub()->async()->Generate(&context_, &request_, this);
    // Reads are started from the caller's side too, which gRPC must know of.
    AddHold();
    StartRead(&response_);
    StartCall();
  }
  void ReadNext() { StartRead(&response_); }
  void StopReading() { RemoveHold(); }
  void Cancel() { context_.TryCancel(); }
  WorkerLease& lease() { return *lease_; }

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  const std::shared_ptr<Forward> forward_;
  const std::unique_ptr<WorkerLease> lease_;
  const v1::GenerateRequest& request_;  // the forward's, which changes it between attempts only
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
};

// The call from the client. Held open until no attempt is under way, so that the pool and all else
// that an attempt uses is still there. An attempt holds another reference.
class Forward : public ServerStream<v1::GenerateResponse> {
 public:
  Forward(InferencePool& pool, OpenStreams& streams, grpc::CallbackServerContext* context,
          v1::GenerateRequest request)
      : ServerStream(streams, context),
        pool_(pool),
        deadline_(WorkerDeadline(context->deadline())),
        started_at_(pool.clock().MonotonicNow()),
        request_(std::move(request)),
        sequences_(std::max(1, request_.sampling().n())),
        wants_token_ids_(!request_.output().has_token_ids() || request_.output().token_ids()),
        max_time_(MaxTime(request_)),
        resumed_(request_.resume_token_ids_size()) {
    // A continuation needs the ids even where the caller does not want them.
    if (sequences_ == 1) request_.mutable_output()->set_token_ids(true);
  }

  void Start() {
    Open();
    Hold();
    Launch(std::nullopt);
  }

  // A generation that is under way may end: the server's drain gives it the time.
  void Drain() override {}

  // From the attempt, one at a time.
  void Deliver(Attempt& attempt, v1::GenerateResponse& response);
  void AttemptDone(WorkerLease& lease, const grpc::Status& status);

 private:
  static absl::Duration MaxTime(const v1::GenerateRequest& request);

  void OnSent() override;
  void OnGone() override;

  bool ContinuationPossible() const;
  // Makes the request that of the next attempt.
  void PrepareRequest();
  // Tries a worker; without one ends the call with `last_failure`, else with why there is none.
  void Launch(std::optional<grpc::Status> last_failure);
  void Retry(WorkerLease& lease, WorkerFailure failure, const grpc::Status& status);
  grpc::Status Interrupted(const std::string& worker, const std::string& why) const;
  bool Note(v1::GenerateResponse& response);
  // Makes the last worker's figures those of the whole stream.
  void Account(v1::GenerationFinished& finished) const;
  void NoteProgress(const WorkerLease& lease);
  // Ends the call, once; where it had been interrupted, with the count of how that went.
  void Conclude(const grpc::Status& status);

  InferencePool& pool_;
  const std::chrono::system_clock::time_point deadline_;
  const absl::Duration started_at_;
  v1::GenerateRequest request_;
  const int sequences_;
  const bool wants_token_ids_;
  const absl::Duration max_time_;  // as the caller asked; infinite: it did not
  const int resumed_;              // resume_token_ids of the caller's own

  // Touched by one side at a time: an attempt hands over by Deliver, the caller by OnSent.
  std::set<WorkerId> tried_;
  int attempts_ = 0;         // since the last progress
  bool continuing_ = false;  // a worker was lost after `started_`
  std::optional<v1::GenerationStarted> started_;
  std::vector<int32_t> delivered_;  // token ids of the one sequence
  size_t replayed_ = 0;             // of them, by the present attempt
  int64_t delivered_deltas_ = 0;
  absl::Duration first_delta_at_;
  int finished_ = 0;
  grpc::Status mismatch_;  // a continuation that turned out to be no such thing

  Mutex mutex_;
  Attempt* attempt_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool sending_ ABSL_GUARDED_BY(mutex_) = false;  // the attempt waits for OnSent
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

void Attempt::OnReadDone(bool ok) {
  if (ok) {
    forward_->Deliver(*this, response_);
  } else {
    RemoveHold();
  }
}

void Attempt::OnDone(const grpc::Status& status) {
  const std::shared_ptr<Forward> forward = forward_;
  forward->AttemptDone(*lease_, status);
  delete this;
}

// Keeps what a continuation would need. False: nothing of this message is for the caller.
bool Forward::Note(v1::GenerateResponse& response) {
  switch (response.event_case()) {
    case v1::GenerateResponse::kStarted:
      if (!started_.has_value()) {
        started_ = response.started();
        started_->clear_prompt_logprobs();
        return true;
      }
      if (response.started().weights_version() != started_->weights_version() ||
          response.started().numerics_id() != started_->numerics_id()) {
        mismatch_ = Interrupted("", "the worker that was to continue serves other weights by now");
      }
      return false;
    case v1::GenerateResponse::kDelta:
      if (delivered_deltas_++ == 0) first_delta_at_ = pool_.clock().MonotonicNow();
      delivered_.insert(delivered_.end(), response.delta().token_ids().begin(),
                        response.delta().token_ids().end());
      if (!wants_token_ids_) {
        response.mutable_delta()->clear_token_ids();
        return !response.delta().text().empty() || response.delta().logprobs_size() > 0;
      }
      return true;
    case v1::GenerateResponse::kFinished:
      ++finished_;
      if (continuing_) Account(*response.mutable_finished());
      return true;
    case v1::GenerateResponse::EVENT_NOT_SET:
      return true;  // A newer worker's event: passed on with its unknown fields.
  }
  return true;
}

void Forward::Account(v1::GenerationFinished& finished) const {
  v1::GenerationUsage& usage = *finished.mutable_usage();
  usage.set_output_tokens(usage.output_tokens() + static_cast<int32_t>(replayed_));
  v1::GenerationTimings& timings = *finished.mutable_timings();
  timings.clear_queued();
  timings.clear_time_to_first_token();
  if (delivered_deltas_ > 0) {
    SetDuration(first_delta_at_ - started_at_, *timings.mutable_time_to_first_token());
  }
  SetDuration(pool_.clock().MonotonicNow() - started_at_, *timings.mutable_total());
}

// Workers that refused or died before it may take the stream again: in a rolling restart they are
// back by the time that this one goes.
void Forward::NoteProgress(const WorkerLease& lease) {
  if (attempts_ == 1) return;
  attempts_ = 1;
  tried_ = {lease.worker().id};
}

void Forward::Deliver(Attempt& attempt, v1::GenerateResponse& response) {
  if (response.has_delta()) NoteProgress(attempt.lease());
  if (!Note(response)) {
    if (!mismatch_.ok()) attempt.Cancel();
    attempt.ReadNext();
    return;
  }
  bool gone = false;
  {
    MutexLock lock(mutex_);
    gone = cancelled_;
    sending_ = !gone;
  }
  if (!gone) return Send(std::move(response));
  attempt.Cancel();
  attempt.StopReading();
}

void Forward::OnSent() {
  Attempt* attempt = nullptr;
  {
    MutexLock lock(mutex_);
    if (!std::exchange(sending_, false)) return;  // OnGone has ended the attempt
    attempt = attempt_;  // Held by AddHold until it is told that there is no more to read.
  }
  attempt->ReadNext();
}

void Forward::OnGone() {
  Attempt* waiting = nullptr;
  {
    MutexLock lock(mutex_);
    cancelled_ = true;
    if (attempt_ != nullptr) attempt_->Cancel();
    if (std::exchange(sending_, false)) waiting = attempt_;
  }
  if (waiting != nullptr) waiting->StopReading();
}

absl::Duration Forward::MaxTime(const v1::GenerateRequest& request) {
  if (!request.stopping().has_max_time()) return absl::InfiniteDuration();
  const google::protobuf::Duration& asked = request.stopping().max_time();
  return absl::Seconds(asked.seconds()) + absl::Nanoseconds(asked.nanos());
}

void Forward::PrepareRequest() {
  if (!started_.has_value()) return;
  request_.mutable_sampling()->set_seed(started_->seed());
  request_.mutable_output()->clear_prompt_logprobs();
  request_.mutable_resume_token_ids()->Truncate(resumed_);
  request_.mutable_resume_token_ids()->Add(delivered_.begin(), delivered_.end());
  replayed_ = delivered_.size();
  if (max_time_ == absl::InfiniteDuration()) return;
  const absl::Duration left = max_time_ - (pool_.clock().MonotonicNow() - started_at_);
  SetDuration(std::max(left, absl::Milliseconds(1)),
              *request_.mutable_stopping()->mutable_max_time());
}

void Forward::Launch(std::optional<grpc::Status> last_failure) {
  WorkerWish wish;
  wish.model = request_.model();
  wish.excluded = tried_;
  wish.needs_tools = NeedsTools(request_.chat());
  if (started_.has_value()) {
    wish.weights_version = started_->weights_version();
    wish.numerics_id = started_->numerics_id();
  }
  absl::StatusOr<std::unique_ptr<WorkerLease>> lease = absl::UnavailableError("");
  if (attempts_ < kMaxWorkerAttempts) lease = pool_.Lease(wish);
  if (!lease.ok()) {
    Conclude(last_failure.has_value() ? *last_failure : ToGrpcStatus(lease.status()));
    return;
  }
  if (last_failure.has_value() && !continuing_) pool_.CountRetry();
  ++attempts_;
  tried_.insert((*lease)->worker().id);
  PrepareRequest();
  auto* attempt = new Attempt(std::static_pointer_cast<Forward>(shared_from_this()),
                              *std::move(lease), request_, deadline_);
  {
    MutexLock lock(mutex_);
    attempt_ = attempt;
    if (cancelled_) attempt->Cancel();  // Before it starts: it then ends at once.
  }
  attempt->Start();
}

bool Forward::ContinuationPossible() const {
  return sequences_ == 1 && finished_ == 0 && mismatch_.ok() &&
         ContinuesExactly(started_->numerics_id());
}

grpc::Status Forward::Interrupted(const std::string& worker, const std::string& why) const {
  const std::string seed = absl::StrCat(started_.has_value() ? started_->seed() : 0);
  std::string message = absl::StrCat(
      "the inference worker", worker.empty() ? "" : " ", worker, " was lost in mid-stream after ",
      delivered_.size(), " tokens (", delivered_deltas_, " deltas) of weights ",
      started_.has_value() ? started_->weights_version() : "", " were delivered: ", why);
  if (sequences_ == 1 && wants_token_ids_) {
    absl::StrAppend(&message, ". To go on, send the same request with these tokens ",
                    resumed_ > 0 ? "after those it had in" : "as", " resume_token_ids and seed ",
                    seed);
    if (started_.has_value() && !ContinuesExactly(started_->numerics_id())) {
      absl::StrAppend(&message, "; the numerics ", started_->numerics_id(),
                      " depend on what else is computed, so what follows may differ from what"
                      " this stream would have had");
    }
  } else {
    absl::StrAppend(&message, ". Send the request again");
  }
  return ToGrpcStatus(
      Error(absl::StatusCode::kUnavailable, "STREAM_INTERRUPTED", message,
            {{"delivered_tokens", absl::StrCat(delivered_.size())}, {"seed", seed}}));
}

void Forward::Retry(WorkerLease& lease, WorkerFailure failure, const grpc::Status& status) {
  if (failure == WorkerFailure::kUnhealthy) lease.MarkSuspect(status.error_message());
  if (!started_.has_value()) {
    Launch(ExplainFailure(lease.worker(), status));
    return;
  }
  continuing_ = true;
  MF_LOG(WARNING) << "request '" << Truncate(request_.request_id(), kMostLoggedId)
                  << "': interrupted at inference worker " << lease.worker().name << " after "
                  << delivered_deltas_ << " deltas"
                  << (ContinuationPossible() ? "; looking for another one to continue" : "") << ": "
                  << status.error_message();
  const grpc::Status interrupted = Interrupted(lease.worker().name, status.error_message());
  if (!ContinuationPossible()) {
    Conclude(interrupted);
    return;
  }
  Launch(interrupted);
}

void Forward::Conclude(const grpc::Status& status) {
  if (continuing_) pool_.CountContinuation(status.ok());
  End(FromGrpcStatus(status));
  Release();
}

void Forward::AttemptDone(WorkerLease& lease, const grpc::Status& status) {
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    attempt_ = nullptr;
    cancelled = cancelled_;
  }
  if (cancelled) {
    Release();  // the stream knows its end
    return;
  }
  if (!mismatch_.ok()) {
    Conclude(mismatch_);
    return;
  }
  const WorkerFailure failure = ClassifyWorkerFailure(status);
  if (status.ok() || failure == WorkerFailure::kFinal ||
      std::chrono::system_clock::now() >= deadline_) {
    if (IsWorkersFault(status)) {
      MF_LOG(WARNING) << "request '" << Truncate(request_.request_id(), kMostLoggedId)
                      << "': failed at inference worker " << lease.worker().name << ": "
                      << status.error_message();
    }
    Conclude(status);
    return;
  }
  Retry(lease, failure, status);
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* ForwardGenerate(
    InferencePool& pool, OpenStreams& streams, grpc::CallbackServerContext* context,
    v1::GenerateRequest request) {
  auto forward = std::make_shared<Forward>(pool, streams, context, std::move(request));
  forward->Start();
  return forward.get();
}

}  // namespace mindforge
