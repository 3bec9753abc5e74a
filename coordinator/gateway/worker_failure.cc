#include "coordinator/gateway/worker_failure.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"

namespace mindforge {
namespace {

constexpr std::chrono::hours kLongestCall(1);

}  // namespace

WorkerFailure ClassifyWorkerFailure(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return WorkerFailure::kUnhealthy;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return GetReason(FromGrpcStatus(status)) == "QUEUE_FULL" ? WorkerFailure::kBusy
                                                               : WorkerFailure::kFinal;
    default:
      return WorkerFailure::kFinal;
  }
}

grpc::Status ExplainFailure(const InferenceWorker& worker, const grpc::Status& status) {
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
