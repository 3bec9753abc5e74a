// What the handlers share: the caller's request id with a digest of the body, look-ups that say
// what is not there, and the two shapes of a unary handler.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/grpc_status.h"
#include "coordinator/rpc/core.h"
#include "google/protobuf/message.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace mindforge {

// `method` and `body` (its request_id field aside) under the caller's request_id.
// INVALID_ARGUMENT: the id is missing, too long or not printable.
absl::StatusOr<sched::Request> RequestOf(const std::string& method, const std::string& request_id,
                                         const google::protobuf::Message& body);

absl::Status JobNotFound(const std::string& name_or_id);
absl::Status WorkerNotFound(const std::string& name_or_id);
absl::Status CheckpointNotFound(const std::string& job, int64_t step);
absl::Status DeploymentNotFound(const std::string& name);
// Core::Read would not take it.
absl::Status StoreReadsBusy();

// Ends the call with `status` once what it tells is durable.
inline Core::Reply Finish(grpc::ServerUnaryReactor* reactor, absl::Status status) {
  return [reactor, status = std::move(status)] { reactor->Finish(ToGrpcStatus(status)); };
}

// A call that changes something: `fill` writes the response from the state after it.
using FillOutcome = std::function<absl::Status(const sched::Outcome&, const sched::State&)>;
grpc::ServerUnaryReactor* Mutate(grpc::CallbackServerContext* context, Core& core,
                                 const absl::StatusOr<sched::Event>& event, FillOutcome fill);

// A call that only looks.
using FillState = std::function<absl::Status(const sched::State&)>;
grpc::ServerUnaryReactor* Look(grpc::CallbackServerContext* context, Core& core, FillState fill);

}  // namespace mindforge
