// The listening socket of a generation's rendezvous store, which rank 0's trainer inherits: bound
// here, so that its port is known, and told to the others, before the trainer has even loaded.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/net.h"
#include "worker/agent/agent_options.h"

namespace mindforge {

// Binds a port on `advertise`.
absl::StatusOr<ListeningSocket> BindStoreSocket(const std::string& advertise);

// INVALID_ARGUMENT, naming --advertise, when peers could not reach this worker by it: it is none of
// this machine's addresses, or stands for all of them.
// Warns where it is a loopback address and the coordinator's is not: then there are other machines.
absl::Status CheckAdvertise(const AgentOptions& options);

}  // namespace mindforge
