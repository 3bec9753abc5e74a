#include "worker/serve/inference_agent.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/grpc_client.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/random_id.h"

namespace mindforge {
namespace {

// A coordinator that accepts connections and drops them is not called more often.
constexpr absl::Duration kLeastPause = absl::Milliseconds(50);
// How long Stop and Poke may wait while the channel is watched: that wait cannot be interrupted.
constexpr absl::Duration kConnectSlice = absl::Milliseconds(50);

}  // namespace

InferenceAgent::InferenceAgent(Options options, ModelHost& host)
    : options_(std::move(options)),
      host_(host),
      incarnation_(RandomUuid()),
      stub_(v1::InferenceAgentService::NewStub(options_.channel)) {}

InferenceAgent::~InferenceAgent() { Stop(); }

void InferenceAgent::Start() {
  thread_ = std::thread([this] { Run(); });
}

void InferenceAgent::Poke() {
  MutexLock lock(mutex_);
  poked_ = true;
  if (call_ != nullptr && parked_) call_->TryCancel();
  poked_or_stopped_.SignalAll();
}

void InferenceAgent::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->TryCancel();
    poked_or_stopped_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

v1::InferenceAgentServiceSynchronizeRequest InferenceAgent::Report(bool no_park) const {
  const HostState state = host_.State();
  v1::InferenceAgentServiceSynchronizeRequest report;
  report.set_worker_id(options_.worker_id);
  report.set_name(options_.name);
  report.set_version(options_.version);
  report.set_address(options_.address);
  report.set_incarnation(incarnation_);
  report.set_device(options_.device);
  if (state.model != nullptr) {
    report.set_deployment(state.model->deployment);
    report.set_weights_version(state.model->weights_version);
    report.set_numerics_id(state.model->numerics_id);
  }
  report.set_ready(state.model != nullptr && !state.draining && state.failure.ok());
  report.set_load_error(state.load_error);
  report.set_load_error_version(state.load_error_version);
  report.set_requests_running(static_cast<int32_t>(state.stats.requests_running));
  report.set_requests_waiting(static_cast<int32_t>(state.stats.requests_waiting));
  report.set_slots(static_cast<int32_t>(state.slots));
  report.set_draining(state.draining);
  report.set_known_version(known_version_);
  report.set_no_park(no_park);
  report.set_renders_tools(true);
  return report;
}

absl::Status InferenceAgent::Call(const v1::InferenceAgentServiceSynchronizeRequest& request,
                                  v1::InferenceAgentServiceSynchronizeResponse* response) {
  grpc::ClientContext context;
  SetDeadline(context, options_.call_timeout);
  {
    MutexLock lock(mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    // A change since the report was made must not wait for the end of a park.
    if (poked_ && !request.no_park()) return absl::CancelledError("poked");
    call_ = &context;
    parked_ = !request.no_park();
  }
  const grpc::Status status = stub_->Synchronize(&context, request, response);
  MutexLock lock(mutex_);
  call_ = nullptr;
  return FromGrpcStatus(status);
}

bool InferenceAgent::Wait(absl::Duration duration) {
  MutexLock lock(mutex_);
  poked_or_stopped_.WaitFor(mutex_, duration, [this] {
    mutex_.AssertHeld();
    return poked_ || stopping_;
  });
  return !stopping_;
}

bool InferenceAgent::Disturbed() {
  MutexLock lock(mutex_);
  return poked_ || stopping_;
}

bool InferenceAgent::WaitToRetry(absl::Duration duration) {
  const Clock& clock = host_.clock();
  const absl::Duration end = clock.MonotonicNow() + duration;
  if (!Wait(std::min(duration, kLeastPause))) return false;
  // A coordinator that is there and refuses is not asked sooner; one that was lost and is there
  // again is.
  bool lost = false;
  while (!Disturbed() && clock.MonotonicNow() < end) {
    const grpc_connectivity_state state = options_.channel->GetState(/*try_to_connect=*/true);
    if (state != GRPC_CHANNEL_READY) lost = true;
    if (state == GRPC_CHANNEL_READY && lost) break;
    const absl::Duration slice = std::min(kConnectSlice, end - clock.MonotonicNow());
    options_.channel->WaitForStateChange(
        state, std::chrono::system_clock::now() + absl::ToChronoNanoseconds(slice));
  }
  return Wait(absl::ZeroDuration());
}

void InferenceAgent::Run() {
  pthread_setname_np(pthread_self(), "inference-agent");
  absl::Duration backoff = options_.first_backoff;
  std::string last_failure;
  bool poked = true;
  while (true) {
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
      poked = std::exchange(poked_, false) || poked;
    }
    v1::InferenceAgentServiceSynchronizeResponse response;
    const absl::Status status = Call(Report(poked), &response);
    if (status.ok()) {
      if (!last_failure.empty()) MF_LOG(INFO) << "the coordinator answers again";
      last_failure.clear();
      backoff = options_.first_backoff;
      poked = false;
      known_version_ = response.desired_version();
      host_.SetDesired(response.has_model() ? std::optional(response.model()) : std::nullopt);
      const auto& again = response.call_again();
      if (!Wait(absl::Seconds(again.seconds()) + absl::Nanoseconds(again.nanos()))) return;
      continue;
    }
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
      if (poked_) continue;  // Ended by Poke, to tell the news at once.
    }
    if (status.message() != last_failure) {
      last_failure = std::string(status.message());
      MF_LOG(WARNING) << "the coordinator at " << options_.coordinator
                      << " (--coordinator) does not answer: " << last_failure
                      << "; what is served goes on being served";
    }
    // After a failure the first report tells everything and is not parked.
    poked = true;
    if (!WaitToRetry(backoff)) return;
    backoff = std::min(backoff * 2, options_.last_backoff);
  }
}

}  // namespace mindforge
