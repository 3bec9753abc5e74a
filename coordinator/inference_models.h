// What the gateway asks of the shell: which deployment an inference worker should serve.
#pragma once

#include <functional>
#include <memory>
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

  Shell& shell_;
  const std::shared_ptr<Wake> wake_ = std::make_shared<Wake>();
  const std::unique_ptr<Subscription> subscription_;
};

}  // namespace mindforge
