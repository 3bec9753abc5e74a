// How a failed call to an inference worker is judged: pass it on, or try another worker.
#pragma once

#include <chrono>

#include "coordinator/gateway/registry.h"
#include "grpcpp/support/status.h"

namespace mindforge {

// Why a call to a worker failed, as far as trying elsewhere is concerned.
enum class WorkerFailure {
  kFinal,  // the caller's affair: pass it on
  kBusy,   // it is full, serves another model by now, or drains and will not wait for our caller
  kUnhealthy,  // it drains, died or cannot be reached
};
WorkerFailure ClassifyWorkerFailure(const grpc::Status& status);

// A final failure that is not the caller's doing: worth a log line.
bool IsWorkersFault(const grpc::Status& status);

// What the caller is told when no other worker is left: as the worker said, or, where gRPC alone
// speaks (connection refused), which worker it is and what to look at; a worker that has just gone
// over to another model is UNAVAILABLE, since the deployment is still there.
grpc::Status ExplainFailure(const InferenceWorker& worker, const grpc::Status& status);

// How many workers one request is tried at.
inline constexpr int kMaxWorkerAttempts = 4;

// The deadline for a call to a worker: the caller's, and never none.
std::chrono::system_clock::time_point WorkerDeadline(
    std::chrono::system_clock::time_point callers_deadline);

}  // namespace mindforge
