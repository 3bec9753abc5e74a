// Channels and call contexts as every program of ours makes them.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace mindforge {

struct GrpcClientOptions {
  std::string ca_file;     // PEM; set: TLS, and the server must be signed by it
  std::string token_file;  // set: each call carries the token
  // When a lost server has not answered for so long, calls end UNAVAILABLE.
  absl::Duration keepalive = absl::Seconds(20);
  // Longest wait between attempts to connect again.
  absl::Duration max_reconnect_backoff = absl::Seconds(2);
};

// A channel to HOST:PORT; connects on first use and again after a loss. Errors are those of the
// files; a server that is not there shows in the calls. Channels are not shared with others of the
// process to the same target.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& target,
                                                           const GrpcClientOptions& options = {});

// Every call has a deadline.
inline void SetDeadline(grpc::ClientContext& context, absl::Duration timeout) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
}

}  // namespace mindforge
