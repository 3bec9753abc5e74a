// What the gateway asks of the shell: which deployment an inference worker should serve.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "coordinator/gateway/desired_models.h"
#include "coordinator/shell.h"

namespace mindforge {

// Thread-safe. Borrows the shell.
class InferenceModels : public DesiredModels {
 public:
  explicit InferenceModels(Shell& shell);
  ~InferenceModels() override;

  DesiredModelState Report(const InferenceWorker& worker) override;
  DesiredModelState Desired(const WorkerId& id) override;
  std::vector<DeploymentView> Deployments() override;
  void OnChange(std::function<void()> wake) override;

  // These workers' leases ran out.
  void Gone(const std::vector<InferenceWorker>& workers);

 private:
  // Shared with wake-ups that may still be on their way when this goes.
  struct Wake {
    Mutex mutex;
    std::function<void()> call ABSL_GUARDED_BY(mutex);
  };
  // The deployments as callers of Generate need them, so that none of those waits for the shell.
  struct Views {
    Mutex mutex;
    std::vector<DeploymentView> deployments ABSL_GUARDED_BY(mutex);
  };

  static void Refresh(const sched::State& state, Views& views);
  // Refreshes when the worker says something else than it did. REQUIRES: `state` has its report.
  void Heard(const sched::State& state, const InferenceWorker& worker);

  Shell& shell_;
  const std::shared_ptr<Views> views_ = std::make_shared<Views>();
  Mutex heard_mutex_;
  std::map<WorkerId, std::string> heard_ ABSL_GUARDED_BY(heard_mutex_);
  const std::shared_ptr<Wake> wake_ = std::make_shared<Wake>();
  const std::unique_ptr<Subscription> subscription_;
};

}  // namespace mindforge
