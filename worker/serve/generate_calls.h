// The two ways out of a LiveRequest: a server stream, and one answer.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/support/server_callback.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "worker/serve/encode_pool.h"
#include "worker/serve/live_request.h"

namespace mindforge {

// Makes the generation of a request: checks and tokenizes it.
using PrepareGeneration = std::function<absl::StatusOr<std::shared_ptr<LiveRequest>>()>;

// Both return a reactor that owns itself. An error of `admitted` ends the call at once; else
// `prepare`, of a request of so many bytes, runs on the pool and what it makes is started. The
// generation is cancelled when the caller goes away.
grpc::ServerWriteReactor<v1::GenerateResponse>* StreamGeneration(const absl::Status& admitted,
                                                                 EncodePool& pool, size_t bytes,
                                                                 PrepareGeneration prepare);
grpc::ServerUnaryReactor* CollectGeneration(const absl::Status& admitted, EncodePool& pool,
                                            size_t bytes, PrepareGeneration prepare,
                                            v1::GenerateUnaryResponse* response);

}  // namespace mindforge
