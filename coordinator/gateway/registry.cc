#include "coordinator/gateway/registry.h"

#include <utility>

#include "common/check.h"

namespace mindforge {

InferenceWorker InferenceRegistry::Report(
    const v1::InferenceAgentServiceSynchronizeRequest& report) {
  MF_CHECK(!report.worker_id().empty()) << "the service refuses reports without worker_id";
  InferenceWorker worker;
  worker.id = WorkerId(report.worker_id());
  worker.name = report.name();
  worker.version = report.version();
  worker.address = report.address();
  worker.incarnation = report.incarnation();
  worker.device = report.device();
  worker.deployment = report.deployment();
  worker.weights_version = report.weights_version();
  worker.numerics_id = report.numerics_id();
  worker.ready = report.ready();
  worker.draining = report.draining();
  worker.load_error = report.load_error();
  worker.load_error_version = report.load_error_version();
  worker.requests_running = report.requests_running();
  worker.requests_waiting = report.requests_waiting();
  worker.slots = report.slots();
  worker.last_seen = clock_.MonotonicNow();
  MutexLock lock(mutex_);
  workers_[worker.id] = worker;
  return worker;
}

std::vector<InferenceWorker> InferenceRegistry::Live() const {
  const absl::Duration now = clock_.MonotonicNow();
  MutexLock lock(mutex_);
  std::vector<InferenceWorker> live;
  for (const auto& [id, worker] : workers_) {
    if (Alive(worker, now)) live.push_back(worker);
  }
  return live;
}

std::optional<InferenceWorker> InferenceRegistry::Find(const WorkerId& id) const {
  const absl::Duration now = clock_.MonotonicNow();
  MutexLock lock(mutex_);
  const auto it = workers_.find(id);
  if (it == workers_.end() || !Alive(it->second, now)) return std::nullopt;
  return it->second;
}

std::vector<InferenceWorker> InferenceRegistry::Expire() {
  const absl::Duration now = clock_.MonotonicNow();
  MutexLock lock(mutex_);
  std::vector<InferenceWorker> gone;
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (Alive(it->second, now)) {
      ++it;
    } else {
      gone.push_back(std::move(it->second));
      it = workers_.erase(it);
    }
  }
  return gone;
}

}  // namespace mindforge
