#include "coordinator/gateway/inference_pool.h"

#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/gateway/chooser.h"

namespace mindforge {

WorkerLease::~WorkerLease() { pool_.Release(worker_.id); }

void WorkerLease::MarkSuspect(const std::string& why) { pool_.MarkSuspect(worker_, why); }

InferencePool::InferencePool(const Clock& clock, InferenceRegistry& registry,
                             DesiredModels& desired, Options options, MetricsRegistry* metrics)
    : clock_(clock), registry_(registry), desired_(desired), options_(std::move(options)) {
  if (metrics == nullptr) return;
  in_flight_gauge_ =
      &metrics->AddGauge("gateway_requests_in_flight", "Requests with inference workers now.")
           .Get();
  retries_ = &metrics
                  ->AddCounter("gateway_retries_total",
                               "Requests tried at another inference worker after a refusal.")
                  .Get();
  CounterFamily& continuations = metrics->AddCounter(
      "gateway_interrupted_streams_total",
      "Streams whose inference worker died, by whether another one continued them.");
  continued_ = &continuations.Get({{"outcome", "continued"}});
  broken_ = &continuations.Get({{"outcome", "ended"}});
}

absl::StatusOr<std::unique_ptr<WorkerLease>> InferencePool::Lease(const WorkerWish& wish) {
  ChooseInput input;
  input.model = wish.model;
  input.excluded = wish.excluded;
  input.weights_version = wish.weights_version;
  input.numerics_id = wish.numerics_id;
  input.needs_tools = wish.needs_tools;
  input.workers = registry_.Live();
  input.deployments = desired_.Deployments();
  const absl::Duration now = clock_.MonotonicNow();
  WorkerId chosen;
  absl::StatusOr<InferenceWorker> worker = absl::UnknownError("not chosen yet");
  {
    // Choosing and counting are one step, or a burst would all go to one worker.
    MutexLock lock(mutex_);
    std::erase_if(suspect_until_, [&](const auto& entry) { return entry.second <= now; });
    for (const auto& [id, until] : suspect_until_) input.suspects.insert(id);
    input.in_flight = in_flight_;
    input.turn = turn_++;
    worker = ChooseWorker(input);
    if (!worker.ok()) return worker.status();
    ++in_flight_[worker->id];
  }
  if (in_flight_gauge_ != nullptr) in_flight_gauge_->Increment();
  absl::StatusOr<std::shared_ptr<v1::InferenceService::Stub>> stub = StubFor(worker->address);
  if (!stub.ok()) {
    Release(worker->id);
    return Annotate(stub.status(), "connecting to inference worker " + worker->name);
  }
  return std::make_unique<WorkerLease>(*this, *std::move(worker), *std::move(stub));
}

absl::StatusOr<std::shared_ptr<v1::InferenceService::Stub>> InferencePool::StubFor(
    const std::string& address) {
  MutexLock lock(mutex_);
  if (const auto it = stubs_.find(address); it != stubs_.end()) return it->second;
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, MakeChannel(address, options_.client));
  // Workers on port 0 get a new address at each start; calls in flight keep their own reference.
  if (stubs_.size() >= options_.max_channels) stubs_.clear();
  auto stub = std::shared_ptr<v1::InferenceService::Stub>(v1::InferenceService::NewStub(channel));
  stubs_[address] = stub;
  return stub;
}

void InferencePool::Release(const WorkerId& id) {
  {
    MutexLock lock(mutex_);
    const auto it = in_flight_.find(id);
    if (it != in_flight_.end() && --it->second == 0) in_flight_.erase(it);
  }
  if (in_flight_gauge_ != nullptr) in_flight_gauge_->Decrement();
}

void InferencePool::MarkSuspect(const InferenceWorker& worker, const std::string& why) {
  const absl::Duration until = clock_.MonotonicNow() + options_.suspect_for;
  bool already = false;
  {
    MutexLock lock(mutex_);
    already = suspect_until_.contains(worker.id);
    suspect_until_[worker.id] = until;
  }
  if (already) return;
  MF_LOG(WARNING) << "inference worker " << worker.name << " at " << worker.address
                  << " failed a call and is tried last for a while: " << why;
}

void InferencePool::CountRetry() {
  if (retries_ != nullptr) retries_->Increment();
}

void InferencePool::CountContinuation(bool succeeded) {
  if (prometheus::Counter* counter = succeeded ? continued_ : broken_; counter != nullptr) {
    counter->Increment();
  }
}

}  // namespace mindforge
