// Desired models that a test sets by hand.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "coordinator/gateway/desired_models.h"

namespace mindforge {

// Thread-safe.
class FakeDesiredModels : public DesiredModels {
 public:
  DesiredModelState Report(const InferenceWorker& worker) override {
    MutexLock lock(mutex_);
    ++reports_[worker.id];
    return desired_[worker.id];
  }
  DesiredModelState Desired(const WorkerId& id) override {
    MutexLock lock(mutex_);
    return desired_[id];
  }
  std::vector<DeploymentView> Deployments() override {
    MutexLock lock(mutex_);
    return deployments_;
  }
  void OnChange(std::function<void()> wake) override {
    MutexLock lock(wake_mutex_);
    wake_ = std::move(wake);
  }

  void SetDeployments(std::vector<DeploymentView> deployments) {
    MutexLock lock(mutex_);
    deployments_ = std::move(deployments);
  }
  void Set(const WorkerId& id, DesiredModelState state) {
    {
      MutexLock lock(mutex_);
      desired_[id] = std::move(state);
    }
    MutexLock lock(wake_mutex_);
    if (wake_) wake_();
  }
  int reports(const WorkerId& id) {
    MutexLock lock(mutex_);
    return reports_[id];
  }

 private:
  Mutex wake_mutex_;
  std::function<void()> wake_ ABSL_GUARDED_BY(wake_mutex_);
  Mutex mutex_;
  std::map<WorkerId, DesiredModelState> desired_ ABSL_GUARDED_BY(mutex_);
  std::map<WorkerId, int> reports_ ABSL_GUARDED_BY(mutex_);
  std::vector<DeploymentView> deployments_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
