#include "coordinator/gateway/inference_gateway.h"

#include <utility>

#include "coordinator/gateway/chat_needs.h"
#include "coordinator/gateway/generate_forward.h"
#include "coordinator/gateway/unary_forward.h"

namespace mindforge {

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceGateway::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  // The request is this call's alone, though gRPC's signature has it const: a prompt of megabytes
  // is moved, not copied.
  return ForwardGenerate(pool_, streams_, context,
                         std::move(*const_cast<v1::GenerateRequest*>(request)));
}

grpc::ServerUnaryReactor* InferenceGateway::GenerateUnary(grpc::CallbackServerContext* context,
                                                          const v1::GenerateUnaryRequest* request,
                                                          v1::GenerateUnaryResponse* response) {
  return new UnaryForward<v1::GenerateUnaryRequest, v1::GenerateUnaryResponse>(
      pool_, context,
      {.model = request->request().model(), .needs_tools = NeedsTools(request->request().chat())},
      request, response,
      [](v1::InferenceService::Stub& stub, auto* client, auto* in, auto* out, auto done) {
        stub.async()->GenerateUnary(client, in, out, std::move(done));
      });
}

grpc::ServerUnaryReactor* InferenceGateway::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return new UnaryForward<v1::TokenizeRequest, v1::TokenizeResponse>(
      pool_, context, {.model = request->model(), .needs_tools = NeedsTools(request->chat())},
      request, response,
      [](v1::InferenceService::Stub& stub, auto* client, auto* in, auto* out, auto done) {
        stub.async()->Tokenize(client, in, out, std::move(done));
      });
}

grpc::ServerUnaryReactor* InferenceGateway::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return new UnaryForward<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      pool_, context, {.model = request->model()}, request, response,
      [](v1::InferenceService::Stub& stub, auto* client, auto* in, auto* out, auto done) {
        stub.async()->Detokenize(client, in, out, std::move(done));
      });
}

grpc::ServerUnaryReactor* InferenceGateway::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest* request,
                                                         v1::GetModelInfoResponse* response) {
  return new UnaryForward<v1::GetModelInfoRequest, v1::GetModelInfoResponse>(
      pool_, context, {.model = request->model()}, request, response,
      [](v1::InferenceService::Stub& stub, auto* client, auto* in, auto* out, auto done) {
        stub.async()->GetModelInfo(client, in, out, std::move(done));
      });
}

}  // namespace mindforge
