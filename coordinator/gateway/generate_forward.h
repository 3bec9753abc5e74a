// One forwarded Generate stream: a server reactor towards the caller and, one after the other,
// client reactors towards inference workers. One message is in hand at a time (read, write, read
// again), so a slow caller slows the worker's stream and nothing piles up here.
#pragma once

#include <memory>

#include "common/open_streams.h"
#include "coordinator/gateway/inference_pool.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge {

// Starts forwarding `request` and returns the reactor, which owns itself. `pool` and
// `streams` outlive it.
//
// A worker that refuses before anything was delivered (its queue is full, it drains, nobody
// listens) is replaced by another. A worker that dies in mid-stream is replaced where another
// serves the same weights with the same numerics, these do not depend on the batch, and one
// sequence was asked for; else the call ends UNAVAILABLE and says what was delivered. All other
// statuses pass through unchanged.
grpc::ServerWriteReactor<v1::GenerateResponse>* ForwardGenerate(
    InferencePool& pool, OpenStreams& streams, grpc::CallbackServerContext* context,
    v1::GenerateRequest request);

}  // namespace mindforge
