#include "common/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"

namespace mindforge {

std::string HostPort::ToString() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("'", std::string(text), "' is no address: ", why,
                                                   "; write HOST:PORT, such as 127.0.0.1:7070"));
  };
  if (const size_t scheme = text.find("://"); scheme != std::string_view::npos) {
    return refuse(absl::StrCat("leave out '", std::string(text.substr(0, scheme + 3)),
                               "', which is for web pages and not for gRPC"));
  }
  if (text.starts_with('[') && text.find(']') == std::string_view::npos) {
    return refuse("the bracket of the IPv6 host is not closed");
  }
  // The colons of "[::1]" are no port's.
  const size_t host_end = text.starts_with('[') ? text.find(']') : 0;
  const size_t colon = text.find(':', host_end);
  if (colon == std::string_view::npos) return refuse("the port is missing");
  if (text.find(':', colon + 1) != std::string_view::npos) {
    return refuse("an IPv6 host goes in brackets, as in [::1]:7070");
  }
  std::string_view host = text.substr(0, colon);
  if (host_end > 0) {
    if (colon != host_end + 1) return refuse("the port follows the bracket, as in [::1]:7070");
    host = host.substr(1, host_end - 1);
  }
  if (host.empty()) return refuse("the host is missing");
  if (colon + 1 == text.size()) return refuse("the port is missing");
  if (host.find('/') != std::string_view::npos) return refuse("a host has no '/'");
  std::string_view digits = text.substr(colon + 1);
  if (digits.ends_with('/')) return refuse("nothing follows the port, not even a '/'");
  int port = 0;
  if (!absl::SimpleAtoi(std::string(digits), &port) || port < 0 || port > 65535) {
    return refuse("the port is no number from 0 to 65535");
  }
  return HostPort{std::string(host), port};
}

absl::Status CheckHost(std::string_view host) {
  const auto refuse = [&](const char* why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", std::string(host), "' is no host: ", why,
                     "; write a name or an IP address alone, such as 10.0.0.5"));
  };
  if (host.find("://") != std::string_view::npos) return refuse("leave out what is before '//'");
  if (host.find('/') != std::string_view::npos) return refuse("a host has no '/'");
  if (host.starts_with('[')) return refuse("an IPv6 address has no brackets here");
  const size_t colon = host.find(':');
  if (colon != std::string_view::npos && host.find(':', colon + 1) == std::string_view::npos) {
    return refuse("the port is not given here");
  }
  for (const char c : host) {
    if (static_cast<unsigned char>(c) <= ' ' || static_cast<unsigned char>(c) >= 0x7F) {
      return refuse("it has characters that no host has");
    }
  }
  return absl::OkStatus();
}

bool IsLoopback(std::string_view host) {
  const std::string name(host);
  if (name == "localhost" || name == "::1") return true;
  in_addr address;
  return inet_pton(AF_INET, name.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

absl::StatusOr<ListeningSocket> ListenTcp(const std::string& host, int port) {
  const std::string shown = HostPort{host, port}.ToString();
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen on ", shown, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  UniqueFd fd(socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot make a socket for", shown);
  const int one = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 || listen(fd.get(), 512) != 0) {
    if (errno == EADDRINUSE) {
      return absl::AlreadyExistsError(
          absl::StrCat("cannot listen on ", shown, ": the port is taken"));
    }
    return ErrnoStatus(errno, "cannot listen on", shown);
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return ErrnoStatus(errno, "cannot ask the port of", shown);
  }
  const in_port_t raw = bound.ss_family == AF_INET6
                            ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                            : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
  return ListeningSocket{std::move(fd), ntohs(raw)};
}

namespace {

absl::StatusOr<UniqueFd> ConnectTo(const addrinfo& to, const std::string& shown,
                                   absl::Duration timeout) {
  UniqueFd fd(socket(to.ai_family, to.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to.ai_protocol));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot make a socket for", shown);
  int error = connect(fd.get(), to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd entry{fd.get(), POLLOUT, 0};
    const int ready = poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout)));
    socklen_t length = sizeof(error);
    error = ready == 0 ? ETIMEDOUT : errno;
    if (ready > 0) getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error != 0) return ErrnoStatus(error, "cannot connect to", shown);
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  return fd;
}

}  // namespace

absl::StatusOr<UniqueFd> ConnectTcp(const HostPort& address, absl::Duration timeout) {
  const std::string shown = address.ToString();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot connect to ", shown, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  absl::Status last;
  for (const addrinfo* to = found; to != nullptr; to = to->ai_next) {
    absl::StatusOr<UniqueFd> fd = ConnectTo(*to, shown, timeout);
    if (fd.ok()) return fd;
    last = fd.status();
  }
  return absl::UnavailableError(last.message());
}

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

}  // namespace mindforge
