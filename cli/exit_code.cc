#include "cli/exit_code.h"

#include <utility>

#include "absl/strings/cord.h"

namespace mindforge::cli {
namespace {

constexpr char kOfServerUrl[] = "mindforge/of-server";

}  // namespace

absl::Status OfServer(absl::Status status) {
  status.SetPayload(kOfServerUrl, absl::Cord());
  return status;
}

bool IsOfServer(const absl::Status& status) { return status.GetPayload(kOfServerUrl).has_value(); }

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return ExitCode::kUsage;
    case absl::StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return IsOfServer(status) ? ExitCode::kNotAllowed : ExitCode::kFailed;
    case absl::StatusCode::kUnavailable:
      return IsOfServer(status) ? ExitCode::kUnavailable : ExitCode::kFailed;
    case absl::StatusCode::kDeadlineExceeded:
      return ExitCode::kTimeout;
    case absl::StatusCode::kCancelled:
      return ExitCode::kInterrupted;
    default:
      return ExitCode::kFailed;
  }
}

}  // namespace mindforge::cli
