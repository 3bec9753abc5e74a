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
#include "common/strings.h"
#include "coordinator/gateway/worker_failure.h"

namespace mindforge {
namespace {

constexpr size_t kMostLoggedId = 256;  // bytes

class Forward;

// The call to one worker. Deletes itself when gRPC is done with it.
class Attempt : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Attempt(std::shared_ptr<Forward> forward, std::unique_ptr<WorkerLease> lease,
          v1::GenerateRequest request, std::chrono::system_clock::time_point deadline)
      : forward_(std::move(forward)), lease_(std::move(lease)), request_(std::move(request)) {
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
  const v1::GenerateRequest request_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
};

// The call from the client. Lives until both sides are done: gRPC's side holds `self_`, an attempt
// holds another reference.
class Forward : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                public std::enable_shared_from_this<Forward> {
 public:
  Forward(InferencePool& pool, grpc::CallbackServerContext* context,
          const v1::GenerateRequest& request)
      : pool_(pool),
        deadline_(WorkerDeadline(context->deadline())),
        started_at_(pool.clock().MonotonicNow()),
        request_(request),
        sequences_(std::max(1, request.sampling().n())) {}

  void Start(std::shared_ptr<Forward> self) {
    self_ = std::move(self);
    Launch(std::nullopt);
  }

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override {
    std::shared_ptr<Forward> self = std::move(self_);  // The last reference may be this one.
  }

  // From the attempt, one at a time.
  void Deliver(Attempt& attempt, v1::GenerateResponse& response);
  void AttemptDone(WorkerLease& lease, const grpc::Status& status);

 private:
  bool ContinuationPossible() const;
  v1::GenerateRequest NextRequest() const;
  // Tries a worker; without one ends the call with `last_failure`, else with why there is none.
  void Launch(std::optional<grpc::Status> last_failure);
  void Retry(WorkerLease& lease, WorkerFailure failure, const grpc::Status& status);
  grpc::Status Interrupted(const std::string& worker, const std::string& why) const;
  bool Note(v1::GenerateResponse& response);
  void NoteProgress(const WorkerLease& lease);
  // Ends the call; where it had been interrupted, with the count of how that went.
  void End(const grpc::Status& status);

  InferencePool& pool_;
  const std::chrono::system_clock::time_point deadline_;
  const absl::Duration started_at_;
  const v1::GenerateRequest request_;
  const int sequences_;

  // Touched by one side at a time: an attempt hands over by Deliver, the caller by OnWriteDone.
  std::set<WorkerId> tried_;
  int attempts_ = 0;         // since the last progress
  bool continuing_ = false;  // a worker was lost after `started_`
  std::optional<v1::GenerationStarted> started_;
  std::vector<int32_t> delivered_;  // token ids of the one sequence
  int64_t delivered_deltas_ = 0;
  int finished_ = 0;
  grpc::Status mismatch_;  // a continuation that turned out to be no such thing
  v1::GenerateResponse outgoing_;

  Mutex mutex_;
  Attempt* attempt_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Forward> self_;
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
      ++delivered_deltas_;
      delivered_.insert(delivered_.end(), response.delta().token_ids().begin(),
                        response.delta().token_ids().end());
      if (request_.output().has_token_ids() && !request_.output().token_ids()) {
        response.mutable_delta()->clear_token_ids();
        return !response.delta().text().empty() || response.delta().logprobs_size() > 0;
      }
      return true;
    case v1::GenerateResponse::kFinished:
      ++finished_;
      return true;
    case v1::GenerateResponse::EVENT_NOT_SET:
      return true;  // A newer worker's event: passed on with its unknown fields.
  }
  return true;
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
  if (Note(response)) {
    outgoing_.Swap(&response);
    StartWrite(&outgoing_);
    return;
  }
  if (!mismatch_.ok()) attempt.Cancel();
  attempt.ReadNext();
}

void Forward::OnWriteDone(bool ok) {
  Attempt* attempt = nullptr;
  {
    MutexLock lock(mutex_);
    attempt = attempt_;  // Held by AddHold until it is told below that there is no more to read.
    if (!ok) cancelled_ = true;  // The caller is gone; OnCancel says so too, perhaps later.
  }
  if (ok) {
    attempt->ReadNext();
  } else {
    attempt->Cancel();
    attempt->StopReading();
  }
}

void Forward::OnCancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  if (attempt_ != nullptr) attempt_->Cancel();
}

v1::GenerateRequest Forward::NextRequest() const {
  v1::GenerateRequest request = request_;
  // A continuation needs the ids even where the caller does not want them.
  if (sequences_ == 1) request.mutable_output()->set_token_ids(true);
  if (!started_.has_value()) return request;
  request.mutable_sampling()->set_seed(started_->seed());
  request.mutable_output()->clear_prompt_logprobs();
  request.mutable_resume_token_ids()->Add(delivered_.begin(), delivered_.end());
  if (request.stopping().has_max_time()) {
    const google::protobuf::Duration& asked = request_.stopping().max_time();
    absl::Duration left = absl::Seconds(asked.seconds()) + absl::Nanoseconds(asked.nanos()) -
                          (pool_.clock().MonotonicNow() - started_at_);
    left = std::max(left, absl::Milliseconds(1));
    auto* max_time = request.mutable_stopping()->mutable_max_time();
    max_time->set_seconds(absl::IDivDuration(left, absl::Seconds(1), &left));
    max_time->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(left)));
  }
  return request;
}

void Forward::Launch(std::optional<grpc::Status> last_failure) {
  WorkerWish wish;
  wish.model = request_.model();
  wish.excluded = tried_;
  if (started_.has_value()) {
    wish.weights_version = started_->weights_version();
    wish.numerics_id = started_->numerics_id();
  }
  absl::StatusOr<std::unique_ptr<WorkerLease>> lease = absl::UnavailableError("");
  if (attempts_ < kMaxWorkerAttempts) lease = pool_.Lease(wish);
  if (!lease.ok()) {
    End(last_failure.has_value() ? *last_failure : ToGrpcStatus(lease.status()));
    return;
  }
  if (last_failure.has_value() && !continuing_) pool_.CountRetry();
  ++attempts_;
  tried_.insert((*lease)->worker().id);
  auto* attempt = new Attempt(shared_from_this(), *std::move(lease), NextRequest(), deadline_);
  {
    MutexLock lock(mutex_);
    attempt_ = attempt;
    if (cancelled_) attempt->Cancel();  // Before it starts: it then ends at once.
  }
  attempt->Start();
}

bool Forward::ContinuationPossible() const {
  return sequences_ == 1 && finished_ == 0 && mismatch_.ok();
}

grpc::Status Forward::Interrupted(const std::string& worker, const std::string& why) const {
  const std::string seed = absl::StrCat(started_.has_value() ? started_->seed() : 0);
  std::string message = absl::StrCat(
      "the inference worker", worker.empty() ? "" : " ", worker, " was lost in mid-stream after ",
      delivered_.size(), " tokens (", delivered_deltas_, " deltas) of weights ",
      started_.has_value() ? started_->weights_version() : "", " were delivered: ", why);
  if (sequences_ == 1) {
    absl::StrAppend(&message, ". To go on, send the same request with these tokens as ",
                    "resume_token_ids and seed ", seed);
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
    End(interrupted);
    return;
  }
  Launch(interrupted);
}

void Forward::End(const grpc::Status& status) {
  if (continuing_) pool_.CountContinuation(status.ok());
  Finish(status);
}

void Forward::AttemptDone(WorkerLease& lease, const grpc::Status& status) {
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    attempt_ = nullptr;
    cancelled = cancelled_;
  }
  if (cancelled) {
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the caller cancelled"));
    return;
  }
  if (!mismatch_.ok()) {
    End(mismatch_);
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
    End(status);
    return;
  }
  Retry(lease, failure, status);
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* ForwardGenerate(
    InferencePool& pool, grpc::CallbackServerContext* context, const v1::GenerateRequest& request) {
  auto forward = std::make_shared<Forward>(pool, context, request);
  forward->Start(forward);
  return forward.get();
}

}  // namespace mindforge
