// Server credentials that check a bearer token before any handler runs, with TLS and without.
//
// gRPC's C++ wrapper allows a metadata processor on TLS credentials alone, and its server
// interceptors cannot refuse a call. The C core underneath takes a processor on insecure
// credentials as well, so these credentials are built on the core directly.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "grpcpp/security/server_credentials.h"

namespace mindforge {

struct GrpcAuthOptions {
  std::string certificate_pem;  // chain; empty: no TLS
  std::string key_pem;
  std::string token;  // empty: no check
  std::function<void()> on_refused;
};

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(GrpcAuthOptions options);

// Takes the same time wherever two strings of equal length differ.
bool ConstantTimeEquals(std::string_view a, std::string_view b);

}  // namespace mindforge
