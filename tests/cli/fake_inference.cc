// Generation as a test says: see FakeState.
#include "tests/cli/fake_coordinator.h"

namespace mindforge::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(20);

class FakeInference : public v1::InferenceService::Service {
 public:
  explicit FakeInference(FakeState& state) : state_(state) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    MutexLock lock(state_.mutex);
    state_.generated.push_back(*request);
    v1::GenerateResponse response;
    response.mutable_started()->set_seed(7);
    writer->Write(response);
    int32_t id = 100;
    for (const std::string& piece : state_.pieces) {
      response.mutable_delta()->set_text(piece);
      if (request->output().logprobs()) {
        v1::TokenLogprob& logprob = *response.mutable_delta()->add_logprobs();
        logprob.set_token_id(id++);
        logprob.set_logprob(-0.5);
        logprob.set_token(piece);
        if (request->output().top_logprobs() > 0) *logprob.add_top() = logprob;
      }
      writer->Write(response);
      response.clear_delta();
    }
    while (state_.hold_generation) {
      if (context->IsCancelled()) {
        ++state_.cancelled_generations;
        state_.changed.SignalAll();
        return grpc::Status::CANCELLED;
      }
      state_.changed.WaitFor(state_.mutex, kTick);
    }
    response.mutable_finished()->set_reason(v1::FINISH_REASON_EOS);
    writer->Write(response);
    return grpc::Status::OK;
  }

  grpc::Status GenerateUnary(grpc::ServerContext*, const v1::GenerateUnaryRequest* request,
                             v1::GenerateUnaryResponse* response) override {
    MutexLock lock(state_.mutex);
    state_.generated.push_back(request->request());
    v1::GenerationResult& result = *response->add_results();
    for (const std::string& piece : state_.pieces) result.mutable_text()->append(piece);
    response->mutable_started()->set_weights_version(state_.weights_version);
    const size_t replica = state_.generated.size() % state_.numerics.size();
    response->mutable_started()->set_numerics_id(state_.numerics[replica]);
    if (request->request().output().prompt_logprobs()) {
      const auto& ids = request->request().token_ids().ids();
      for (int i = 1; i < ids.size(); ++i) {
        response->mutable_started()->add_prompt_logprobs()->set_logprob(-0.01 * ids[i]);
      }
    }
    result.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
    return grpc::Status::OK;
  }

  // A token a byte.
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    for (const char c : request->text()) response->add_token_ids(static_cast<uint8_t>(c));
    return grpc::Status::OK;
  }

  grpc::Status GetModelInfo(grpc::ServerContext*, const v1::GetModelInfoRequest* request,
                            v1::GetModelInfoResponse* response) override {
    MutexLock lock(state_.mutex);
    response->set_max_context(32);
    response->set_prompt_style(v1::PROMPT_STYLE_COMPLETION);
    for (const v1::Deployment& one : state_.deployments) {
      if (!request->model().empty() && one.spec().name() != request->model()) continue;
      response->set_prompt_style(one.spec().prompt_style());
      return grpc::Status::OK;
    }
    if (request->model().empty()) return grpc::Status::OK;
    return {grpc::StatusCode::NOT_FOUND, "no model '" + request->model() + "' is served here"};
  }

 private:
  FakeState& state_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeFakeInference(FakeState& state) {
  return std::make_unique<FakeInference>(state);
}

}  // namespace mindforge::cli
