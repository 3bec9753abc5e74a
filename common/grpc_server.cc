#include "common/grpc_server.h"

#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/deadline.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/grpc_auth.h"
#include "common/grpc_metrics.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "grpc/grpc.h"
#include "grpc/support/time.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"

namespace mindforge {
namespace {

constexpr size_t kMaxPemBytes = 1 << 20;
constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMinTokenBytes = 16;
// Threads of handlers that run at once; calls beyond are refused with RESOURCE_EXHAUSTED.
constexpr int kMaxThreads = 1024;

// Of messages that are on their way in or out, before they are ours to count. At the limit gRPC
// slows its connections down, then ends calls with RESOURCE_EXHAUSTED.
constexpr size_t kMaxBuffers = size_t{512} << 20;

// What calls that have ended may still take to leave through the sockets.
constexpr absl::Duration kLastBytes = absl::Milliseconds(200);

// gRPC offers health and reflection only for all servers of a process at once.
void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

absl::StatusOr<GrpcAuthOptions> LoadAuth(const GrpcServerOptions& options) {
  GrpcAuthOptions auth;
  if (options.tls.cert_file.empty() != options.tls.key_file.empty()) {
    return InvalidArgument("tls", "cert_file and key_file go together; set both or neither");
  }
  if (!options.tls.cert_file.empty()) {
    const auto certificate = ReadFile(options.tls.cert_file, kMaxPemBytes);
    RETURN_IF_ERROR(certificate) << "tls.cert_file";
    const auto key = ReadFile(options.tls.key_file, kMaxPemBytes);
    RETURN_IF_ERROR(key) << "tls.key_file";
    auth.certificate_pem = *certificate;
    auth.key_pem = *key;
  }
  if (!options.token_file.empty()) {
    ASSIGN_OR_RETURN(auth.token, ReadTokenFile(options.token_file));
  }
  if (options.metrics != nullptr) {
    MetricsRegistry& metrics = *options.metrics;
    auth.on_refused = [&metrics] { CountRefusedCall(metrics); };
  }
  return auth;
}

void SetArguments(const GrpcServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxGrpcMessageBytes);
  builder.SetMaxSendMessageSize(kMaxGrpcMessageBytes);
  // With SO_REUSEPORT a second server would silently share a taken port.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping to notice a dead server; a client that vanished is noticed the same way.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(options.keepalive)));
  builder.AddChannelArgument(
      GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
      static_cast<int>(absl::ToInt64Milliseconds(options.keepalive_timeout)));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(options.connection_idle)));
  // Without this gRPC stops asking after two pings that no data followed.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.SetResourceQuota(
      grpc::ResourceQuota("mindforge").SetMaxThreads(kMaxThreads).Resize(kMaxBuffers));
}

// Why a server could not listen, which gRPC only logs.
absl::Status ListenFailure(const GrpcServerOptions& options, const HostPort& address) {
  const absl::Status cause = ListenTcp(address.host, address.port).status();
  if (!cause.ok()) {
    return Annotate(cause, absl::StrCat(options.listen_flag, " ", options.listen,
                                        " cannot be served; choose another with ",
                                        options.listen_flag, " (port 0 picks one)"));
  }
  return InvalidArgument("tls", absl::StrCat("the server on ", options.listen,
                                             " does not start with this certificate and key"));
}

}  // namespace

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  const auto content = ReadFile(path, kMaxTokenBytes);
  RETURN_IF_ERROR(content) << "token_file";
  std::string token(absl::StripAsciiWhitespace(*content));
  if (token.size() < kMinTokenBytes || token.find_first_of(" \t\r\n") != std::string::npos) {
    return InvalidArgument(
        "token_file", absl::StrCat(path, " must hold one line of at least ", kMinTokenBytes,
                                   " characters; `openssl rand -hex 32 > ", path, "` makes one"));
  }
  return token;
}

absl::Status CheckServerExposure(const GrpcServerOptions& options) {
  const auto address = ParseHostPort(options.listen);
  RETURN_IF_ERROR(address) << options.listen_flag;
  const bool has_tls = !options.tls.cert_file.empty() && !options.tls.key_file.empty();
  if (options.insecure || IsLoopback(address->host) || (has_tls && !options.token_file.empty())) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kFailedPrecondition, "OPEN_TO_THE_NETWORK",
               absl::StrCat(options.listen_flag, " ", options.listen,
                            " is reachable from other machines, where anyone could give orders: "
                            "set tls {cert_file, key_file} and token_file in the configuration, "
                            "or pass --insecure to listen without them"));
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<GrpcService>& services) {
  RETURN_IF_ERROR(CheckServerExposure(options));
  ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(options.listen));
  ASSIGN_OR_RETURN(GrpcAuthOptions auth, LoadAuth(options));
  EnableHealthAndReflection();
  grpc::ServerBuilder builder;
  SetArguments(options, builder);
  std::unique_ptr<GrpcServer> server(new GrpcServer);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
  creators.push_back(MakeCountInterceptor(server->calls_));
  if (options.metrics != nullptr) creators.push_back(MakeMetricsInterceptor(*options.metrics));
  builder.experimental().SetInterceptorCreators(std::move(creators));
  int port = 0;
  builder.AddListeningPort(address.ToString(), MakeServerCredentials(std::move(auth)), &port);
  const auto shared_budget = std::make_shared<CallBudget>(options.limits);
  for (const GrpcService& service : services) {
    if (service.full_name.empty()) {
      builder.RegisterService(service.service);
      continue;
    }
    server->checked_.push_back(std::make_unique<CheckedService>(
        service.full_name, *service.service, service.max_request_bytes,
        service.limits ? std::make_shared<CallBudget>(*service.limits) : shared_budget));
    builder.RegisterService(server->checked_.back().get());
  }
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) return ListenFailure(options, address);
  server->port_ = port;
  server->address_ = HostPort{address.host, port}.ToString();
  return server;
}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) Drain(absl::ZeroDuration());
}

void GrpcServer::SetServing(const std::string& service, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service, serving);
}

void GrpcServer::StopServing() { server_->GetHealthCheckService()->Shutdown(); }

// gRPC waits until its connections are gone, and a client that makes no call may not read that it
// should go.
void GrpcServer::EndIdleConnections(absl::Duration deadline) {
  const Deadline end(deadline);
  while (calls_->WaitForNone(end.Left())) {
    {
      MutexLock lock(drain_mutex_);
      const bool ended = shutdown_ended_.WaitFor(drain_mutex_, kLastBytes, [this] {
        drain_mutex_.AssertHeld();
        return ended_;
      });
      if (ended) return;
    }
    if (!calls_->WaitForNone(absl::ZeroDuration())) continue;  // one had arrived before the refusal
    grpc_server_cancel_all_calls(server_->c_server());
    return;
  }
}

void GrpcServer::Drain(absl::Duration deadline) {
  StopServing();
  {
    MutexLock lock(drain_mutex_);
    ended_ = false;
  }
  std::thread closer([this, deadline] { EndIdleConnections(deadline); });
  server_->Shutdown(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_millis(absl::ToInt64Milliseconds(deadline), GPR_TIMESPAN)));
  {
    MutexLock lock(drain_mutex_);
    ended_ = true;
    shutdown_ended_.SignalAll();
  }
  closer.join();
  server_->Wait();
}

}  // namespace mindforge
