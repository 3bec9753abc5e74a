#include "cli/stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace mindforge::cli {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(200);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

}  // namespace

AfterStream AfterLostStream(Session& session, StreamCall& call, const grpc::Status& raw, bool& lost,
                            int& attempt, absl::Status& status) {
  if (raw.ok() && !call.until_told) return AfterStream::kDone;
  if (!raw.ok()) status = CallStatus(session, call.what, raw);
  const bool too_old =
      raw.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && !session.TimeoutRanOut();
  if (too_old && call.reconnect) return AfterStream::kReopen;
  if (raw.error_code() == grpc::StatusCode::ABORTED && call.resumes) return AfterStream::kReopen;
  if (session.interrupted()) {
    status = absl::CancelledError("interrupted");
    return AfterStream::kFail;
  }
  // A server that stops cancels its streams.
  const bool gone = raw.ok() || status.code() == absl::StatusCode::kUnavailable ||
                    raw.error_code() == grpc::StatusCode::CANCELLED;
  if (!gone || !call.reconnect || !call.connected) {
    if (status.ok()) {
      status = OfServer(
          absl::UnavailableError(absl::StrCat("cannot ", call.what, ": the stream ended early")));
    }
    return AfterStream::kFail;
  }
  if (!lost && call.say) {
    call.say(absl::StrCat("the connection to ", session.options.server,
                          " was lost; trying again until it is back (Ctrl-C stops trying)"));
  }
  lost = true;
  if (session.PauseUntilConnected(
          std::min(kFirstPause * (1 << std::min(attempt++, 4)), kLongestPause))) {
    return AfterStream::kReopen;
  }
  // What ended the pause says how this ends.
  status = CallStatus(session, call.what,
                      grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "waiting for the server"));
  return AfterStream::kFail;
}

}  // namespace mindforge::cli
