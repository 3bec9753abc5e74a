#include "coordinator/gateway/worker_failure.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"

namespace mindforge {
namespace {

constexpr std::chrono::hours kLongestCall(1);

// The registry said that the worker serves the model; it has been told to serve another since.
bool Moved(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::NOT_FOUND &&
         GetReason(FromGrpcStatus(status)) == "MODEL_NOT_FOUND";
}

// It has as much in hand as it takes: requests that wait, or calls and their bytes.
bool IsFull(const grpc::Status& status) {
  const std::string reason = GetReason(FromGrpcStatus(status));
  return reason == "QUEUE_FULL" || reason == "SERVER_BUSY";
}

}  // namespace

WorkerFailure ClassifyWorkerFailure(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return WorkerFailure::kUnhealthy;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return IsFull(status) ? WorkerFailure::kBusy : WorkerFailure::kFinal;
    case grpc::StatusCode::ABORTED:
      // Those who do not read at all are given up here, not there.
      return GetReason(FromGrpcStatus(status)) == "CALLER_DOES_NOT_READ" ? WorkerFailure::kBusy
                                                                         : WorkerFailure::kFinal;
    case grpc::StatusCode::NOT_FOUND:
      return Moved(status) ? WorkerFailure::kBusy : WorkerFailure::kFinal;
    default:
      return WorkerFailure::kFinal;
  }
}

bool IsWorkersFault(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::INTERNAL ||
         status.error_code() == grpc::StatusCode::UNKNOWN ||
         status.error_code() == grpc::StatusCode::DATA_LOSS;
}

grpc::Status ExplainFailure(const InferenceWorker& worker, const grpc::Status& status) {
  if (Moved(status)) {
    return ToGrpcStatus(Error(
        absl::StatusCode::kUnavailable, "NO_WORKER",
        absl::StrCat("inference worker ", worker.name, " has just gone over to another model (",
                     status.error_message(), ") and no other one serves this; try again shortly")));
  }
  if (ClassifyWorkerFailure(status) != WorkerFailure::kUnhealthy) return status;
  if (!GetReason(FromGrpcStatus(status)).empty()) return status;
  return ToGrpcStatus(
      Error(absl::StatusCode::kUnavailable, "WORKER_UNREACHABLE",
            absl::StrCat("inference worker ", worker.name, " at ", worker.address,
                         " cannot be reached: ", status.error_message(),
                         ". See that it runs and that its --advertise address is right, or try "
                         "again shortly")));
}

std::chrono::system_clock::time_point WorkerDeadline(
    std::chrono::system_clock::time_point callers_deadline) {
  return std::min(callers_deadline, std::chrono::system_clock::now() + kLongestCall);
}

}  // namespace mindforge
