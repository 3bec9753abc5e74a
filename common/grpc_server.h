// A gRPC server as every program of ours runs it: TLS, bearer token, health, reflection, metrics,
// refusal to be open to the network by accident, and a drain with a deadline.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/call_budget.h"
#include "common/call_count.h"
#include "common/checked_service.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"

namespace mindforge {

inline constexpr int kMaxGrpcMessageBytes = 16 << 20;
// Of a request of InferenceService: more than the longest context's text.
inline constexpr size_t kMaxPromptBytes = size_t{8} << 20;

// Files in PEM. `cert_file` and `key_file` for serving, `ca_file` to trust others by.
struct TlsFiles {
  std::string cert_file;
  std::string key_file;
  std::string ca_file;
};

// A service to offer: with its full name ("mindforge.v1.JobService") its requests are checked
// before its handlers see them (common/checked_service.h), as every program's are; the bare pointer
// is for tests' own. One with limits of its own has a budget that no other service's calls use up.
struct GrpcService {
  GrpcService(const char* name, grpc::Service* service, size_t max_bytes = kMaxRequestBytes,
              std::optional<CallLimits> own_limits = std::nullopt)
      : full_name(name), service(service), max_request_bytes(max_bytes), limits(own_limits) {}
  GrpcService(grpc::Service* service) : service(service) {}  // NOLINT: as good as the service

  std::string full_name;
  grpc::Service* service;
  size_t max_request_bytes = kMaxRequestBytes;
  std::optional<CallLimits> limits;
};

struct GrpcServerOptions {
  std::string listen;                    // HOST:PORT; port 0 picks one
  std::string listen_flag = "--listen";  // what errors call it
  TlsFiles tls;
  std::string token_file;  // its content, stripped, is what callers must send as bearer token
  bool insecure = false;   // allow listening beyond loopback without TLS and token
  CallLimits limits;       // of the services with a name and no limits of their own, together
  // A caller whose program hangs or whose machine is gone is noticed after both of these.
  absl::Duration keepalive = absl::Seconds(30);
  absl::Duration keepalive_timeout = absl::Seconds(10);
  // A connection without a call for so long is closed; its client opens another when it has one.
  absl::Duration connection_idle = absl::Seconds(30);
  MetricsRegistry* metrics = nullptr;  // borrowed; null: none
};

// OK unless `options` would open the server beyond loopback without TLS and token; the error says
// what to set. Start calls it; programs may call it earlier.
absl::Status CheckServerExposure(const GrpcServerOptions& options);

// The token in a file: one line, at least 16 characters. INVALID_ARGUMENT, NOT_FOUND…
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

// A running server. Thread-safe. The destructor stops it at once if Drain has not.
//
// Health starts as SERVING for the server (""); a service is unknown to it until SetServing.
// Calls other than grpc.health.v1 without the token end UNAUTHENTICATED before any handler runs.
class GrpcServer {
 public:
  // `services` are borrowed and must outlive the server. INVALID_ARGUMENT, ALREADY_EXISTS (taken
  // port), FAILED_PRECONDITION (exposure), NOT_FOUND (files): each names the flag or setting.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<GrpcService>& services);
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  int port() const { return port_; }
  // "HOST:PORT" with the port it got.
  const std::string& address() const { return address_; }

  // Health of one service ("mindforge.v1.JobService") or of the server ("").
  void SetServing(const std::string& service, bool serving);

  // Health of every service and of the server turns NOT_SERVING, for good. Drain does it too.
  void StopServing();

  // Health turns NOT_SERVING, new calls are refused, running ones have until `deadline`, then are
  // cancelled. Returns when all are done: clients that only hold a connection are not waited for.
  void Drain(absl::Duration deadline);

 private:
  GrpcServer() = default;
  // Ends the connections once no call is under way; returns at the latest when the shutdown has
  // ended or `deadline` has passed.
  void EndIdleConnections(absl::Duration deadline);

  std::string address_;
  int port_ = 0;
  std::vector<std::unique_ptr<CheckedService>> checked_;
  const std::shared_ptr<CallCount> calls_ = std::make_shared<CallCount>();
  std::unique_ptr<grpc::Server> server_;
  Mutex drain_mutex_;
  CondVar shutdown_ended_;
  bool ended_ ABSL_GUARDED_BY(drain_mutex_) = false;
};

}  // namespace mindforge
