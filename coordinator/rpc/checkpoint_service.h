// CheckpointService: what a job has committed.
#pragma once

#include "coordinator/rpc/core.h"
#include "mindforge/v1/checkpoint_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Borrows `core`.
class CheckpointService : public v1::CheckpointService::CallbackService {
 public:
  explicit CheckpointService(Core& core) : core_(core) {}

  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* GetCheckpoint(grpc::CallbackServerContext* context,
                                          const v1::GetCheckpointRequest* request,
                                          v1::GetCheckpointResponse* response) override;
  grpc::ServerUnaryReactor* VerifyCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::VerifyCheckpointRequest* request,
                                             v1::VerifyCheckpointResponse* response) override;
  grpc::ServerUnaryReactor* PinCheckpoint(grpc::CallbackServerContext* context,
                                          const v1::PinCheckpointRequest* request,
                                          v1::PinCheckpointResponse* response) override;
  grpc::ServerUnaryReactor* UnpinCheckpoint(grpc::CallbackServerContext* context,
                                            const v1::UnpinCheckpointRequest* request,
                                            v1::UnpinCheckpointResponse* response) override;
  grpc::ServerUnaryReactor* DeleteCheckpoint(grpc::CallbackServerContext* context,
                                             const v1::DeleteCheckpointRequest* request,
                                             v1::DeleteCheckpointResponse* response) override;

 private:
  Core& core_;
};

}  // namespace mindforge
