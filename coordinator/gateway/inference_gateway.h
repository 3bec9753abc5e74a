// InferenceService as the coordinator offers it: every call is forwarded to an inference worker
// that serves the deployment named in it. No thread waits for a call.
#pragma once

#include "common/open_streams.h"
#include "coordinator/gateway/inference_pool.h"
#include "mindforge/v1/inference_service.grpc.pb.h"

namespace mindforge {

// Thread-safe. Both are borrowed and outlive the gRPC server that this is registered with.
class InferenceGateway : public v1::InferenceService::CallbackService {
 public:
  InferenceGateway(InferencePool& pool, OpenStreams& streams) : pool_(pool), streams_(streams) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* GenerateUnary(grpc::CallbackServerContext* context,
                                          const v1::GenerateUnaryRequest* request,
                                          v1::GenerateUnaryResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;

 private:
  InferencePool& pool_;
  OpenStreams& streams_;
};

}  // namespace mindforge
