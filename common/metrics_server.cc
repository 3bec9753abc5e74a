// A few lines of HTTP/1.1, one scrape at a time: Prometheus asks every few seconds. The library's
// own server (civetweb) takes up to two seconds to stop, which every program's exit would wait for.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/check.h"
#include "common/deadline.h"
#include "common/durable_file.h"
#include "common/metrics.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr size_t kMaxRequestBytes = 8192;
// A client that is slower than this would keep others waiting.
constexpr absl::Duration kClientTimeout = absl::Seconds(2);

bool WaitFor(int fd, short events, const Deadline& deadline) {
  pollfd entry{fd, events, 0};
  const int left_ms = deadline.PollMilliseconds();
  return left_ms > 0 && poll(&entry, 1, left_ms) > 0;
}

// The request up to its empty line; less when the client is slow, gone or sends too much.
std::string ReadRequest(int connection, const Deadline& deadline) {
  std::string request;
  char chunk[2048];
  while (request.find("\r\n\r\n") == std::string::npos && request.size() < kMaxRequestBytes &&
         WaitFor(connection, POLLIN, deadline)) {
    const ssize_t got = recv(connection, chunk, sizeof(chunk), MSG_DONTWAIT);
    if (got <= 0) break;
    request.append(chunk, static_cast<size_t>(got));
  }
  return request;
}

void WriteReply(int connection, std::string_view reply, const Deadline& deadline) {
  while (!reply.empty() && WaitFor(connection, POLLOUT, deadline)) {
    const ssize_t sent = send(connection, reply.data(), reply.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) return;
    reply.remove_prefix(static_cast<size_t>(sent));
  }
}

std::string Reply(const char* status, const std::string& body, bool with_body) {
  return absl::StrCat("HTTP/1.1 ", status,
                      "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8"
                      "\r\nConnection: close\r\nContent-Length: ",
                      body.size(), "\r\n\r\n", with_body ? body : "");
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                                    MetricsRegistry& registry,
                                                                    std::string_view flag) {
  const std::string flag_name(flag);
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  RETURN_IF_ERROR(parsed) << flag_name;
  absl::StatusOr<ListeningSocket> socket = ListenTcp(parsed->host, parsed->port);
  RETURN_IF_ERROR(socket) << flag_name << " " << address
                          << " cannot be served; choose another with " << flag_name
                          << " (port 0 picks one)";
  UniqueFd wake(eventfd(0, EFD_CLOEXEC));
  if (!wake.valid()) return ErrnoStatus(errno, "cannot make an eventfd for", flag_name);
  return std::unique_ptr<MetricsServer>(
      new MetricsServer(*std::move(socket), std::move(wake), registry));
}

MetricsServer::MetricsServer(ListeningSocket socket, UniqueFd wake, MetricsRegistry& registry)
    : socket_(std::move(socket)),
      wake_(std::move(wake)),
      registry_(registry),
      thread_([this] { Run(); }) {}

MetricsServer::~MetricsServer() {
  const uint64_t one = 1;
  MF_CHECK_EQ(write(wake_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  thread_.join();
}

void MetricsServer::Run() {
  while (true) {
    pollfd entries[2] = {{socket_.fd.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (poll(entries, 2, -1) < 0 && errno != EINTR) return;
    if (entries[1].revents != 0) return;
    if (entries[0].revents == 0) continue;
    const UniqueFd connection(accept4(socket_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection.valid()) Answer(connection.get());
  }
}

void MetricsServer::Answer(int connection) {
  const Deadline deadline(kClientTimeout);
  const std::string request = ReadRequest(connection, deadline);
  const bool head = request.starts_with("HEAD ");
  const std::string path = request.substr(0, request.find("\r\n"));
  std::string reply;
  if (request.find("\r\n\r\n") == std::string::npos || !(head || request.starts_with("GET "))) {
    reply = Reply("400 Bad Request", "GET /metrics\n", true);
  } else if (path.find(" /metrics ") != std::string::npos ||
             path.find(" /metrics?") != std::string::npos) {
    reply = Reply("200 OK", registry_.Text(), !head);
  } else {
    reply = Reply("404 Not Found", "The metrics are at /metrics\n", !head);
  }
  WriteReply(connection, reply, deadline);
  shutdown(connection, SHUT_WR);
  // Closing with unread bytes would reset the connection and could lose the reply's end.
  char rest[2048];
  while (WaitFor(connection, POLLIN, deadline) &&
         recv(connection, rest, sizeof(rest), MSG_DONTWAIT) > 0) {
  }
}

}  // namespace mindforge
