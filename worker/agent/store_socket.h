// The listening socket of a generation's rendezvous store, which rank 0's trainer inherits: bound
// here, so that its port is known, and told to the others, before the trainer has even loaded.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/net.h"

namespace mindforge {

// Binds a port on `advertise`. Where that is no address of this machine (a name of a load balancer,
// a host behind NAT) all addresses are listened on, unless it is loopback.
absl::StatusOr<ListeningSocket> BindStoreSocket(const std::string& advertise);

}  // namespace mindforge
