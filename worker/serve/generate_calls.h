// The two ways out of a LiveRequest: a server stream, and one answer.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/open_streams.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "worker/serve/encode_pool.h"
#include "worker/serve/live_request.h"

namespace mindforge {

// Makes the generation of a request: checks and tokenizes it.
using PrepareGeneration = std::function<absl::StatusOr<std::shared_ptr<LiveRequest>>()>;

// Both return a reactor that owns itself. An error of `admitted` ends the call at once; else
// `prepare`, of a request of so many bytes, runs on the pool and what it makes is started. Until
// `prepare` has returned the request that it reads is there. The generation is cancelled when the
// caller goes away, and that of a stream when its caller reads nothing for as long as `streams`
// allows; `streams` outlives the server.
grpc::ServerWriteReactor<v1::GenerateResponse>* StreamGeneration(
    OpenStreams& streams, grpc::CallbackServerContext* context, const absl::Status& admitted,
    EncodePool& pool, size_t bytes, PrepareGeneration prepare);
grpc::ServerUnaryReactor* CollectGeneration(const absl::Status& admitted, EncodePool& pool,
                                            size_t bytes, PrepareGeneration prepare,
                                            v1::GenerateUnaryResponse* response);

}  // namespace mindforge
