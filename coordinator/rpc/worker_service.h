// WorkerService: training nodes, for people.
#pragma once

#include "coordinator/rpc/core.h"
#include "mindforge/v1/worker_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Borrows `core`.
class WorkerService : public v1::WorkerService::CallbackService {
 public:
  explicit WorkerService(Core& core) : core_(core) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* GetWorker(grpc::CallbackServerContext* context,
                                      const v1::GetWorkerRequest* request,
                                      v1::GetWorkerResponse* response) override;
  grpc::ServerUnaryReactor* DrainWorker(grpc::CallbackServerContext* context,
                                        const v1::DrainWorkerRequest* request,
                                        v1::DrainWorkerResponse* response) override;
  grpc::ServerUnaryReactor* ResumeWorker(grpc::CallbackServerContext* context,
                                         const v1::ResumeWorkerRequest* request,
                                         v1::ResumeWorkerResponse* response) override;

 private:
  Core& core_;
};

}  // namespace mindforge
