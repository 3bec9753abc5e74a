// DeploymentService: what is served under which name.
#pragma once

#include "coordinator/rpc/core.h"
#include "mindforge/v1/deployment_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Borrows `core`.
class DeploymentService : public v1::DeploymentService::CallbackService {
 public:
  explicit DeploymentService(Core& core) : core_(core) {}

  grpc::ServerUnaryReactor* DeployModel(grpc::CallbackServerContext* context,
                                        const v1::DeployModelRequest* request,
                                        v1::DeployModelResponse* response) override;
  grpc::ServerUnaryReactor* ListDeployments(grpc::CallbackServerContext* context,
                                            const v1::ListDeploymentsRequest* request,
                                            v1::ListDeploymentsResponse* response) override;
  grpc::ServerUnaryReactor* GetDeployment(grpc::CallbackServerContext* context,
                                          const v1::GetDeploymentRequest* request,
                                          v1::GetDeploymentResponse* response) override;
  grpc::ServerUnaryReactor* DeleteDeployment(grpc::CallbackServerContext* context,
                                             const v1::DeleteDeploymentRequest* request,
                                             v1::DeleteDeploymentResponse* response) override;

 private:
  Core& core_;
};

}  // namespace mindforge
