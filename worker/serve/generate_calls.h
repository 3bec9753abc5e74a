// The two ways out of a LiveRequest: a server stream, and one answer.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/support/server_callback.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "worker/serve/live_request.h"

namespace mindforge {

// Both return a reactor that owns itself, start `generation` (or end the call with its error), and
// cancel it when the caller goes away.
grpc::ServerWriteReactor<v1::GenerateResponse>* StreamGeneration(
    absl::StatusOr<std::shared_ptr<LiveRequest>> generation);
grpc::ServerUnaryReactor* CollectGeneration(absl::StatusOr<std::shared_ptr<LiveRequest>> generation,
                                            v1::GenerateUnaryResponse* response);

}  // namespace mindforge
