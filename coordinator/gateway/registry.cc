#include "coordinator/gateway/registry.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace mindforge {

absl::Duration InferenceRegistry::OwnNow() const {
  const absl::Duration now = std::max(clock_.MonotonicNow(), last_look_);
  own_now_ += std::min(now - last_look_, stall_);
  last_look_ = now;
  return own_now_;
}

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
  worker.renders_tools = report.renders_tools();
  MutexLock lock(mutex_);
  worker.last_seen = OwnNow();
  workers_[worker.id] = worker;
  return worker;
}

std::vector<InferenceWorker> InferenceRegistry::Live() const {
  MutexLock lock(mutex_);
  const absl::Duration now = OwnNow();
  std::vector<InferenceWorker> live;
  for (const auto& [id, worker] : workers_) {
    if (Alive(worker, now)) live.push_back(worker);
  }
  return live;
}

std::optional<InferenceWorker> InferenceRegistry::Find(const WorkerId& id) const {
  MutexLock lock(mutex_);
  const absl::Duration now = OwnNow();
  const auto it = workers_.find(id);
  if (it == workers_.end() || !Alive(it->second, now)) return std::nullopt;
  return it->second;
}

std::vector<InferenceWorker> InferenceRegistry::Expire() {
  MutexLock lock(mutex_);
  const absl::Duration now = OwnNow();
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
