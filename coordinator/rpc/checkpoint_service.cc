#include "coordinator/rpc/checkpoint_service.h"

#include "common/status_macros.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"

namespace mindforge {
namespace {

template <typename Request>
absl::StatusOr<sched::Event> ChangeOf(const char* method, const Request& request,
                                      sched::CheckpointAction action) {
  ASSIGN_OR_RETURN(sched::Request id, RequestOf(method, request.request_id(), request));
  return sched::ChangeCheckpoint{request.job(), request.step(), action, std::move(id)};
}

template <typename Response>
FillOutcome FillsCheckpoint(int64_t step, Response* response) {
  return [=](const sched::Outcome& outcome, const sched::State& state) {
    const sched::Checkpoint* checkpoint = sched::FindCheckpoint(state, outcome.job, step);
    if (checkpoint == nullptr) return CheckpointNotFound(outcome.job.value(), step);
    FillCheckpoint(*checkpoint, response->mutable_checkpoint());
    return absl::OkStatus();
  };
}

}  // namespace

grpc::ServerUnaryReactor* CheckpointService::ListCheckpoints(
    grpc::CallbackServerContext* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  return Look(context, core_, [request, response](const sched::State& state) {
    const sched::Job* job = sched::FindJob(state, request->job());
    if (job == nullptr) return JobNotFound(request->job());
    const auto found = state.checkpoints.find(job->id);
    if (found == state.checkpoints.end()) return absl::OkStatus();
    for (auto it = found->second.rbegin(); it != found->second.rend(); ++it) {
      FillCheckpoint(it->second, response->add_checkpoints());
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointService::GetCheckpoint(grpc::CallbackServerContext* context,
                                                           const v1::GetCheckpointRequest* request,
                                                           v1::GetCheckpointResponse* response) {
  return Look(context, core_, [request, response](const sched::State& state) {
    const sched::Job* job = sched::FindJob(state, request->job());
    if (job == nullptr) return JobNotFound(request->job());
    const sched::Checkpoint* checkpoint = sched::FindCheckpoint(state, job->id, request->step());
    if (checkpoint == nullptr) return CheckpointNotFound(request->job(), request->step());
    FillCheckpoint(*checkpoint, response->mutable_checkpoint());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointService::VerifyCheckpoint(
    grpc::CallbackServerContext* context, const v1::VerifyCheckpointRequest* request,
    v1::VerifyCheckpointResponse* response) {
  return Mutate(context, core_,
                ChangeOf("VerifyCheckpoint", *request, sched::CheckpointAction::kVerify),
                FillsCheckpoint(request->step(), response));
}

grpc::ServerUnaryReactor* CheckpointService::PinCheckpoint(grpc::CallbackServerContext* context,
                                                           const v1::PinCheckpointRequest* request,
                                                           v1::PinCheckpointResponse* response) {
  return Mutate(context, core_, ChangeOf("PinCheckpoint", *request, sched::CheckpointAction::kPin),
                FillsCheckpoint(request->step(), response));
}

grpc::ServerUnaryReactor* CheckpointService::UnpinCheckpoint(
    grpc::CallbackServerContext* context, const v1::UnpinCheckpointRequest* request,
    v1::UnpinCheckpointResponse* response) {
  return Mutate(context, core_,
                ChangeOf("UnpinCheckpoint", *request, sched::CheckpointAction::kUnpin),
                FillsCheckpoint(request->step(), response));
}

grpc::ServerUnaryReactor* CheckpointService::DeleteCheckpoint(
    grpc::CallbackServerContext* context, const v1::DeleteCheckpointRequest* request,
    v1::DeleteCheckpointResponse* response) {
  return Mutate(context, core_,
                ChangeOf("DeleteCheckpoint", *request, sched::CheckpointAction::kDelete),
                [](const sched::Outcome&, const sched::State&) { return absl::OkStatus(); });
}

}  // namespace mindforge
