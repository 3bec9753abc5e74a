// What the gateway's calls share: who is alive, how much each worker has from here, which failed a
// moment ago, and a stub to each address.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/grpc_client.h"
#include "common/ids.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "coordinator/gateway/desired_models.h"
#include "coordinator/gateway/registry.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge {

// What a request needs of the worker that takes it.
struct WorkerWish {
  std::string model;
  std::set<WorkerId> excluded;
  std::string weights_version;  // with numerics_id: only a worker with these; empty: any
  std::string numerics_id;
  bool needs_tools = false;  // it has tools, calls of them or reasoning to be rendered
};

class InferencePool;

// A place at one worker: counted as a request with it until it goes.
class WorkerLease {
 public:
  WorkerLease(InferencePool& pool, InferenceWorker worker,
              std::shared_ptr<v1::InferenceService::Stub> stub)
      : pool_(pool), worker_(std::move(worker)), stub_(std::move(stub)) {}
  ~WorkerLease();
  WorkerLease(const WorkerLease&) = delete;
  WorkerLease& operator=(const WorkerLease&) = delete;

  const InferenceWorker& worker() const { return worker_; }
  const std::shared_ptr<v1::InferenceService::Stub>& stub() const { return stub_; }
  // The worker did not answer, and why: others come first for a while.
  void MarkSuspect(const std::string& why);

 private:
  InferencePool& pool_;
  const InferenceWorker worker_;
  const std::shared_ptr<v1::InferenceService::Stub> stub_;
};

// Thread-safe. Borrows all it is given; outlives every lease.
class InferencePool {
 public:
  struct Options {
    GrpcClientOptions client;  // TLS and token towards the workers
    absl::Duration suspect_for = absl::Seconds(2);
    size_t max_channels = 256;
  };

  InferencePool(const Clock& clock, InferenceRegistry& registry, DesiredModels& desired,
                Options options, MetricsRegistry* metrics);

  // Chooses as ChooseWorker does and counts the request with the worker.
  absl::StatusOr<std::unique_ptr<WorkerLease>> Lease(const WorkerWish& wish);

  const Clock& clock() const { return clock_; }

  // A call goes to another worker before anything was delivered.
  void CountRetry();
  // A stream that lost its worker has ended: well, continued by others, or not.
  void CountContinuation(bool succeeded);

 private:
  friend class WorkerLease;
  absl::StatusOr<std::shared_ptr<v1::InferenceService::Stub>> StubFor(const std::string& address);
  void Release(const WorkerId& id);
  void MarkSuspect(const InferenceWorker& worker, const std::string& why);

  const Clock& clock_;
  InferenceRegistry& registry_;
  DesiredModels& desired_;
  const Options options_;
  prometheus::Gauge* in_flight_gauge_ = nullptr;
  prometheus::Counter* retries_ = nullptr;
  prometheus::Counter* continued_ = nullptr;
  prometheus::Counter* broken_ = nullptr;

  Mutex mutex_;
  uint64_t turn_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<WorkerId, int64_t> in_flight_ ABSL_GUARDED_BY(mutex_);
  std::map<WorkerId, absl::Duration> suspect_until_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<v1::InferenceService::Stub>> stubs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
