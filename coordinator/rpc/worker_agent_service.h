// Synchronize for training agents: the report becomes an event, the answer is the worker's desired
// state, parked on the callback API until there is a new one. No thread waits.
#pragma once

#include <map>
#include <memory>

#include "absl/time/time.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/rpc/core.h"
#include "mindforge/v1/worker_agent_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Borrows `core`; Shutdown before the gRPC server is drained, or parked calls hold it
// up.
class WorkerAgentService : public v1::WorkerAgentService::CallbackService {
 public:
  // A call is parked for at most `park`, which is well below the lease.
  WorkerAgentService(Core& core, absl::Duration park) : core_(core), park_(park) {}

  grpc::ServerUnaryReactor* Synchronize(grpc::CallbackServerContext* context,
                                        const v1::SynchronizeRequest* request,
                                        v1::SynchronizeResponse* response) override;

  // Answers every parked call and parks no more. Idempotent.
  void Shutdown();

 private:
  class Call;

  // Makes `call` the worker's parked one in place of an older, which is answered. False: nothing is
  // parked any more.
  bool Park(const WorkerId& id, const std::shared_ptr<Call>& call);
  void Forget(const WorkerId& id, const Call* call);

  Core& core_;
  const absl::Duration park_;
  Mutex mutex_;
  std::map<WorkerId, std::shared_ptr<Call>> parked_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mindforge
