#include "coordinator/rpc/worker_service.h"

#include <string>

#include "common/status_macros.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"

namespace mindforge {
namespace {

template <typename Request>
absl::StatusOr<sched::Event> DrainOf(const char* method, const Request& request, bool drained) {
  ASSIGN_OR_RETURN(sched::Request id, RequestOf(method, request.request_id(), request));
  return sched::DrainWorker{request.worker(), drained, std::move(id)};
}

template <typename Response>
FillOutcome FillsWorker(Response* response) {
  return [response](const sched::Outcome& outcome, const sched::State& state) {
    const auto worker = state.workers.find(WorkerId(outcome.name));
    if (worker == state.workers.end()) return WorkerNotFound(outcome.name);
    FillWorker(state, worker->second, response->mutable_worker());
    return absl::OkStatus();
  };
}

}  // namespace

grpc::ServerUnaryReactor* WorkerService::ListWorkers(grpc::CallbackServerContext* context,
                                                     const v1::ListWorkersRequest* request,
                                                     v1::ListWorkersResponse* response) {
  return Look(context, core_, [response](const sched::State& state) {
    for (const auto& [id, worker] : state.workers) {
      FillWorker(state, worker, response->add_workers());
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* WorkerService::GetWorker(grpc::CallbackServerContext* context,
                                                   const v1::GetWorkerRequest* request,
                                                   v1::GetWorkerResponse* response) {
  return Look(context, core_, [request, response](const sched::State& state) {
    const sched::Worker* worker = sched::FindWorker(state, request->worker());
    if (worker == nullptr) return WorkerNotFound(request->worker());
    FillWorker(state, *worker, response->mutable_worker());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* WorkerService::DrainWorker(grpc::CallbackServerContext* context,
                                                     const v1::DrainWorkerRequest* request,
                                                     v1::DrainWorkerResponse* response) {
  return Mutate(context, core_, DrainOf("DrainWorker", *request, true), FillsWorker(response));
}

grpc::ServerUnaryReactor* WorkerService::ResumeWorker(grpc::CallbackServerContext* context,
                                                      const v1::ResumeWorkerRequest* request,
                                                      v1::ResumeWorkerResponse* response) {
  return Mutate(context, core_, DrainOf("ResumeWorker", *request, false), FillsWorker(response));
}

}  // namespace mindforge
