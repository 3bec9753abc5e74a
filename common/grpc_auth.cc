#include "common/grpc_auth.h"

#include <string_view>
#include <utility>

#include "grpc/grpc.h"
#include "grpc/grpc_security.h"
#include "grpc/slice.h"

namespace mindforge {
namespace {

constexpr char kRefusal[] =
    "the call carries no valid bearer token; give the client the server's token "
    "(--token-file, MINDFORGE_TOKEN_FILE or token_file in its configuration)";

std::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// Probes of health come from load balancers and kubelets, which hold no token.
bool IsHealthCheck(const grpc_metadata* metadata, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (View(metadata[i].key) == ":path") {
      return View(metadata[i].value).starts_with("/grpc.health.v1.Health/");
    }
  }
  return false;
}

void CheckToken(void* state, grpc_auth_context*, const grpc_metadata* metadata, size_t count,
                grpc_process_auth_metadata_done_cb done, void* user_data) {
  const auto& options = *static_cast<const GrpcAuthOptions*>(state);
  const std::string expected = "Bearer " + options.token;
  for (size_t i = 0; i < count; ++i) {
    if (View(metadata[i].key) == "authorization" &&
        ConstantTimeEquals(View(metadata[i].value), expected)) {
      // Consumed: no handler sees the token.
      done(user_data, &metadata[i], 1, nullptr, 0, GRPC_STATUS_OK, nullptr);
      return;
    }
  }
  if (IsHealthCheck(metadata, count)) {
    done(user_data, nullptr, 0, nullptr, 0, GRPC_STATUS_OK, nullptr);
    return;
  }
  if (options.on_refused) options.on_refused();
  done(user_data, nullptr, 0, nullptr, 0, GRPC_STATUS_UNAUTHENTICATED, kRefusal);
}

void DestroyOptions(void* state) { delete static_cast<GrpcAuthOptions*>(state); }

class TokenServerCredentials : public grpc::ServerCredentials {
 public:
  explicit TokenServerCredentials(GrpcAuthOptions options) : options_(std::move(options)) {}

  // Never called: the token check is the processor.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    grpc_server_credentials* const credentials = MakeCore();
    if (!options_.token.empty()) {
      grpc_server_credentials_set_auth_metadata_processor(
          credentials, {CheckToken, DestroyOptions, new GrpcAuthOptions(options_)});
    }
    const int port = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return port;
  }

  grpc_server_credentials* MakeCore() const {
    if (options_.certificate_pem.empty()) return grpc_insecure_server_credentials_create();
    grpc_ssl_pem_key_cert_pair pair{options_.key_pem.c_str(), options_.certificate_pem.c_str()};
    return grpc_ssl_server_credentials_create_ex(nullptr, &pair, 1,
                                                 GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, nullptr);
  }

  const GrpcAuthOptions options_;
};

}  // namespace

bool ConstantTimeEquals(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  }
  return difference == 0;
}

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(GrpcAuthOptions options) {
  return std::make_shared<TokenServerCredentials>(std::move(options));
}

}  // namespace mindforge
