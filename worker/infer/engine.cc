#include "worker/infer/engine.h"

#include <utility>

#include "worker/infer/batcher.h"

namespace mindforge {

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStop:
      return "stop_string";
    case FinishReason::kMaxTime:
      return "max_time";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kFailed:
      return "failed";
  }
  return "unknown";
}

Engine::Engine(std::unique_ptr<ModelRunner> runner, std::string weights_version,
               EngineOptions options, EngineObserver* observer)
    : batcher_(std::make_unique<Batcher>(std::move(runner), std::move(weights_version), options,
                                         observer)) {}

Engine::~Engine() = default;

absl::StatusOr<RequestHandle> Engine::Submit(GenerationRequest request,
                                             std::shared_ptr<GenerationSink> sink) {
  return batcher_->Submit(std::move(request), std::move(sink));
}

absl::Status Engine::CheckRoom() const { return batcher_->CheckRoom(); }

void Engine::Cancel(RequestHandle handle) { batcher_->Cancel(handle); }

absl::Status Engine::SwapModel(std::unique_ptr<ModelRunner> runner, std::string weights_version) {
  return batcher_->SwapModel(std::move(runner), std::move(weights_version));
}

EngineModel Engine::Model() const { return batcher_->Model(); }

EngineStats Engine::Stats() const { return batcher_->Stats(); }

absl::Status Engine::Drain(absl::Duration timeout) { return batcher_->Drain(timeout); }

void Engine::Stop() { batcher_->Stop(); }

}  // namespace mindforge
