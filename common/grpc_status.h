// absl::Status <-> grpc::Status: one pair for the whole project. Payloads travel as
// google.rpc.Status in the binary details, where every gRPC client finds them.
#pragma once

#include "absl/status/status.h"
#include "common/error_details.h"  // IWYU pragma: export
#include "grpcpp/support/status.h"

namespace mindforge {

// An error without a reason gets the code's name as one, so that every error carries ErrorInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace mindforge
