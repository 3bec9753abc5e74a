// Counts and times every call of a gRPC server: grpc_server_handled_total and
// grpc_server_handling_seconds, with the labels that go-grpc-prometheus made usual.
#pragma once

#include <memory>

#include "common/metrics.h"
#include "grpcpp/support/server_interceptor.h"
#include "grpcpp/support/status_code_enum.h"

namespace mindforge {

// `registry` is borrowed and must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeMetricsInterceptor(
    MetricsRegistry& registry);

// Counts a call that was refused before any method was looked up.
void CountRefusedCall(MetricsRegistry& registry);

// "OK", "NotFound"…
const char* GrpcCodeName(grpc::StatusCode code);

}  // namespace mindforge
