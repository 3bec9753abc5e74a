// InferenceService around the engine, on gRPC's callback API: no thread waits for a call. It
// checks, tokenizes (on threads of its own) and submits; what comes back is carried to gRPC by the
// courier.
#pragma once

#include <functional>
#include <string>

#include "common/open_streams.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "worker/serve/courier.h"
#include "worker/serve/encode_pool.h"
#include "worker/serve/generation_plan.h"
#include "worker/serve/live_request.h"
#include "worker/serve/model_host.h"

namespace mindforge {

// Thread-safe. Borrows host, courier and streams, which outlive the gRPC server it is registered
// with.
class InferenceServiceImpl : public v1::InferenceService::CallbackService {
 public:
  struct Options {
    std::string worker_id;
    GenerationLimits limits;
    // Prompts of generations, and Tokenize and Detokenize, whose texts may be long and do not hold
    // up a prompt.
    EncodePool::Options prompts = {.name = "encode-prompt", .threads = 2};
    EncodePool::Options texts = {.name = "encode-text", .niceness = 10, .max_calls = 64};
  };

  InferenceServiceImpl(ModelHost& host, Courier& courier, OpenStreams& streams, Options options)
      : host_(host),
        courier_(courier),
        streams_(streams),
        options_(std::move(options)),
        prompts_(options_.prompts),
        texts_(options_.texts) {}

  // For tests that want them busy.
  EncodePool& prompts() { return prompts_; }
  EncodePool& texts() { return texts_; }

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
  // The model of that name (empty: whatever is served). NOT_FOUND: another one is served.
  // UNAVAILABLE: nothing is, or this process drains.
  absl::StatusOr<Serving> Find(const std::string& model) const;
  // Finds the model of a generation and asks its engine for room, before any work is done for it.
  absl::StatusOr<Serving> Admit(const v1::GenerateRequest& request) const;
  absl::StatusOr<std::shared_ptr<LiveRequest>> Prepare(const v1::GenerateRequest& request,
                                                       Serving serving, const PlanContext& arrival);
  // As of now: what waits for a thread waits on the request's time.
  PlanContext Arrival(const grpc::CallbackServerContext& context) const;

  ModelHost& host_;
  Courier& courier_;
  OpenStreams& streams_;
  const Options options_;
  EncodePool prompts_;  // Last: what they run uses all of the above.
  EncodePool texts_;
};

}  // namespace mindforge
