// An engine on a fake model with a clock turned by hand.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_model_runner.h"
#include "tests/fakes/recording_sink.h"
#include "worker/infer/engine.h"

namespace mindforge {

class CancelObserver : public EngineObserver {
 public:
  void OnCancelledSlotFree(absl::Duration, int64_t steps) override {
    freed.fetch_add(1);
    most_steps.store(std::max(most_steps.load(), steps));
  }
  void OnStep(int64_t rows, int64_t, absl::Duration) override {
    most_rows.store(std::max(most_rows.load(), rows));
  }
  std::atomic<int64_t> freed = 0;
  std::atomic<int64_t> most_steps = 0;
  std::atomic<int64_t> most_rows = 0;
};

class EngineTest : public ::testing::Test {
 protected:
  Engine& Start(EngineOptions options = {}) {
    options.clock = &clock_;
    engine_ = std::make_unique<Engine>(std::make_unique<FakeModelRunner>(fake_, &control_), "v1",
                                       options, &observer_);
    return *engine_;
  }
  ~EngineTest() override { control_.Open(); }  // before the engine's destructor waits for a step

  GenerationRequest Request(std::vector<int32_t> prompt, int64_t max_new_tokens) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.max_new_tokens = max_new_tokens;
    return request;
  }
  std::shared_ptr<RecordingSink> Submit(GenerationRequest request) {
    auto sink = std::make_shared<RecordingSink>();
    absl::StatusOr<RequestHandle> handle = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(handle.ok()) << handle.status();
    last_ = handle.ok() ? *handle : RequestHandle{};
    return sink;
  }

  FakeModelOptions fake_;
  FakeModelControl control_;
  CancelObserver observer_;
  FakeClock clock_;
  RequestHandle last_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace mindforge
