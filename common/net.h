// Addresses and listening sockets.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/unique_fd.h"

namespace mindforge {

struct HostPort {
  std::string host;
  int port = 0;

  // "127.0.0.1:7070", "[::1]:7070".
  std::string ToString() const;
  friend bool operator==(const HostPort&, const HostPort&) = default;
};

// "HOST:PORT" or "[IPV6]:PORT". INVALID_ARGUMENT says what is wrong with it: a scheme, no port, an
// IPv6 host without brackets.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// A host without a port, as --advertise takes it. INVALID_ARGUMENT says what is wrong with it.
absl::Status CheckHost(std::string_view host);

// True for localhost, 127.0.0.0/8 and ::1; names are not looked up.
bool IsLoopback(std::string_view host);

struct ListeningSocket {
  UniqueFd fd;
  int port = 0;  // the one it got, where 0 was asked for
};

// Binds and listens, close-on-exec. ALREADY_EXISTS when the port is taken, else why it cannot be.
absl::StatusOr<ListeningSocket> ListenTcp(const std::string& host, int port);

// Connects, to the first of the host's addresses that takes it. UNAVAILABLE says why none did;
// `timeout` is for each of them.
absl::StatusOr<UniqueFd> ConnectTcp(const HostPort& address, absl::Duration timeout);

// This machine's name, "localhost" when it has none.
std::string HostName();

}  // namespace mindforge
