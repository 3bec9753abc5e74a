#include "common/grpc_metrics.h"

#include <chrono>
#include <string>
#include <string_view>

#include "google/protobuf/descriptor.h"
#include "grpcpp/support/interceptor.h"

namespace mindforge {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

CounterFamily& HandledFamily(MetricsRegistry& registry) {
  return registry.AddCounter("grpc_server_handled_total",
                             "Calls that the server has answered, by method and status code.");
}

// What a caller invents is no label: there would be no end of them.
constexpr char kUnknown[] = "unknown";

// True when a proto that this program is built with declares the method.
bool IsDeclared(const std::string& method) {
  const auto* const pool = google::protobuf::DescriptorPool::generated_pool();
  return pool->FindMethodByName(method) != nullptr;
}

class MetricsInterceptor : public Interceptor {
 public:
  MetricsInterceptor(CounterFamily& handled, HistogramFamily& seconds, const char* method)
      : handled_(handled), seconds_(seconds), method_(method == nullptr ? "" : method) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Count(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void Count(grpc::StatusCode code) {
    // "/package.Service/Method"
    const size_t slash = method_.rfind('/');
    if (slash == std::string::npos || slash == 0) return;
    std::string service = method_.substr(1, slash - 1);
    std::string method = method_.substr(slash + 1);
    if (code == grpc::StatusCode::UNIMPLEMENTED && !IsDeclared(service + "." + method)) {
      service = method = kUnknown;
    }
    handled_
        .Get(
            {{"grpc_service", service}, {"grpc_method", method}, {"grpc_code", GrpcCodeName(code)}})
        .Increment();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start_;
    seconds_.Get({{"grpc_service", service}, {"grpc_method", method}}).Observe(took.count());
  }

  CounterFamily& handled_;
  HistogramFamily& seconds_;
  const std::string method_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class MetricsInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit MetricsInterceptorFactory(MetricsRegistry& registry)
      : handled_(HandledFamily(registry)),
        seconds_(registry.AddHistogram("grpc_server_handling_seconds",
                                       "Time from a call's arrival to its status.")) {}

  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new MetricsInterceptor(handled_, seconds_, info->method());
  }

 private:
  CounterFamily& handled_;
  HistogramFamily& seconds_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeMetricsInterceptor(
    MetricsRegistry& registry) {
  return std::make_unique<MetricsInterceptorFactory>(registry);
}

void CountRefusedCall(MetricsRegistry& registry) {
  // Before it is known to be allowed the method is the caller's to invent.
  HandledFamily(registry)
      .Get({{"grpc_service", kUnknown},
            {"grpc_method", kUnknown},
            {"grpc_code", GrpcCodeName(grpc::StatusCode::UNAUTHENTICATED)}})
      .Increment();
}

const char* GrpcCodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
      "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
      "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
      "DataLoss", "Unauthenticated"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "Unknown";
}

}  // namespace mindforge
