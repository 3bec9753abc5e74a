// One unary call as every command makes it: with a deadline, cancelled by Ctrl-C, its error saying
// what could not be done.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/session.h"
#include "common/request_text.h"
#include "common/status_macros.h"
#include "grpcpp/support/status.h"

namespace mindforge::cli {

// A server that takes longer is as good as none; --timeout may be shorter.
inline constexpr absl::Duration kCallTimeout = absl::Seconds(30);

struct CallOptions {
  // "get job 'x'": errors begin "cannot get job 'x': ".
  std::string what;
  absl::Duration timeout = kCallTimeout;
  // Set for a mutation: a lost server is tried again a few times with the same id, which makes it
  // the same call.
  std::string request_id;
  // The command has --request-id: the id is told on stderr, so that it can be given again by hand.
  bool takes_request_id = false;
};

// The status of a finished call for people: OK, CANCELLED after Ctrl-C, DEADLINE_EXCEEDED when
// --timeout ran out, UNAVAILABLE when the server did not answer in time, else the server's own. The
// last two are OfServer.
absl::Status CallStatus(Session& session, const std::string& what, const grpc::Status& status);

// Whether a failed call shall be tried again after the pause that this function made.
bool PauseAndRetry(Session& session, const CallOptions& call, const absl::Status& status,
                   int attempt);

// Why a call is not tried again: Ctrl-C or --timeout during the pause, else its own `status`.
absl::Status GivenUpStatus(Session& session, const std::string& what, const absl::Status& status);

// The earlier of --timeout and `timeout` from now.
absl::Time CallDeadline(const Session& session, absl::Duration timeout);

template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> Call(Session& session, const CallOptions& call, Stub& stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
                              const Request& request) {
  RETURN_IF_ERROR(CheckText(request));
  for (int attempt = 0;; ++attempt) {
    Response response;
    ScopedCall scoped(session);
    scoped.context().set_deadline(absl::ToChronoTime(CallDeadline(session, call.timeout)));
    const absl::Status status =
        CallStatus(session, call.what, (stub.*method)(&scoped.context(), request, &response));
    if (status.ok()) return response;
    if (!PauseAndRetry(session, call, status, attempt)) {
      return GivenUpStatus(session, call.what, status);
    }
  }
}

}  // namespace mindforge::cli
