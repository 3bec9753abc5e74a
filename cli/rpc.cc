#include "cli/rpc.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/duration.h"
#include "common/grpc_status.h"
#include "common/status_macros.h"

namespace mindforge::cli {
namespace {

constexpr int kRetries = 5;
constexpr absl::Duration kFirstPause = absl::Milliseconds(250);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

}  // namespace

absl::Status CallStatus(Session& session, const std::string& what, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (session.interrupted()) return absl::CancelledError("interrupted");
  absl::Status cause = FromGrpcStatus(status);
  if (cause.code() == absl::StatusCode::kDeadlineExceeded) {
    if (session.TimeoutRanOut()) {
      return absl::DeadlineExceededError(absl::StrCat(
          "--timeout ", FormatDuration(session.options.timeout), " ran out: cannot ", what));
    }
    cause = absl::UnavailableError(
        absl::StrCat("the server did not answer in time (", cause.message(), ")"));
  } else if (cause.code() == absl::StatusCode::kCancelled) {
    cause = absl::AbortedError(absl::StrCat("the server cancelled the call: ", cause.message()));
  }
  return Annotate(OfServer(std::move(cause)), absl::StrCat("cannot ", what));
}

bool PauseAndRetry(Session& session, const CallOptions& call, const absl::Status& status,
                   int attempt) {
  if (call.request_id.empty() || attempt >= kRetries ||
      status.code() != absl::StatusCode::kUnavailable) {
    return false;
  }
  if (attempt == 0) {
    session.Note(absl::StrCat("cannot ", call.what, ": ", session.options.server,
                              " is not reachable; trying again",
                              call.takes_request_id ? " with --request-id " : "",
                              call.takes_request_id ? call.request_id : ""));
  }
  return session.PauseUntilConnected(std::min(kFirstPause * (1 << attempt), kLongestPause));
}

absl::Status GivenUpStatus(Session& session, const std::string& what, const absl::Status& status) {
  if (status.code() != absl::StatusCode::kUnavailable) return status;
  if (session.interrupted()) return absl::CancelledError("interrupted");
  if (!session.TimeoutRanOut()) return status;
  return CallStatus(session, what,
                    grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "waiting for the server"));
}

absl::Time CallDeadline(const Session& session, absl::Duration timeout) {
  return std::min(session.deadline(), absl::Now() + timeout);
}

}  // namespace mindforge::cli
