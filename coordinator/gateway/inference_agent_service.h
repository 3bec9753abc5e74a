// Synchronize for inference workers: the report goes into the registry, the desired model comes
// back, parked on the callback API until there is a new one. No thread waits.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/gateway/desired_models.h"
#include "coordinator/gateway/registry.h"
#include "mindforge/v1/inference_agent_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Borrows both; Shutdown before the gRPC server is drained, or parked calls hold it
// up.
class InferenceAgentService : public v1::InferenceAgentService::CallbackService {
 public:
  // A call is parked for at most `park`, which must be well below the registry's lease.
  InferenceAgentService(InferenceRegistry& registry, DesiredModels& desired, absl::Duration park);
  ~InferenceAgentService() override;

  grpc::ServerUnaryReactor* Synchronize(
      grpc::CallbackServerContext* context,
      const v1::InferenceAgentServiceSynchronizeRequest* request,
      v1::InferenceAgentServiceSynchronizeResponse* response) override;

  // Answers every parked call and parks no more. Idempotent.
  void Shutdown();

 private:
  class Call;

  // ALREADY_EXISTS: another process that is connected has the caller's worker id.
  absl::Status CheckUnique(const Call& call);
  // Answers the parked calls whose worker has something new.
  void Wake();
  // Answers the worker's parked call, if there is one.
  void EndOlder(const WorkerId& id);
  void Park(const std::shared_ptr<Call>& call);
  void Forget(const Call& call);

  InferenceRegistry& registry_;
  DesiredModels& desired_;
  const absl::Duration park_;
  Mutex mutex_;
  std::map<WorkerId, std::shared_ptr<Call>> parked_ ABSL_GUARDED_BY(mutex_);
  std::string last_refused_ ABSL_GUARDED_BY(mutex_);  // incarnation
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mindforge
