// Swapping weights, failing, draining, stopping.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/eventually.h"
#include "tests/infer/engine_fixture.h"
#include "worker/infer/engine.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST_F(EngineTest, ASwapFailsNobody) {
  Engine& engine = Start();
  control_.Hold();
  auto old_request = Submit(Request({1}, 6));
  control_.AwaitArrivals(1);
  FakeModelOptions newer = fake_;
  newer.weights = 2;
  FakeModelControl newer_control;
  ASSERT_TRUE(
      engine.SwapModel(std::make_unique<FakeModelRunner>(newer, &newer_control), "v2").ok());
  EXPECT_EQ(engine.Model().weights_version, "v2");
  auto new_request = Submit(Request({1}, 6));
  control_.Open();
  old_request->AwaitFinished();
  new_request->AwaitFinished();
  EXPECT_EQ(old_request->token_ids(), FakeModelRunner::Continue(fake_, {1}, 6));
  EXPECT_EQ(new_request->token_ids(), FakeModelRunner::Continue(newer, {1}, 6));
  EXPECT_EQ(new_request->started()->weights_version, "v2");
  ASSERT_TRUE(engine.Drain(absl::Seconds(20)).ok());
  engine.Stop();
  EXPECT_EQ(engine.Stats().retiring_versions, 0);
}

TEST_F(EngineTest, TooManyOldVersionsAreRefused) {
  Engine& engine = Start({.max_retiring_versions = 1});
  control_.Hold();
  auto sink = Submit(Request({1}, 3));
  control_.AwaitArrivals(1);
  auto next = [&] { return std::make_unique<FakeModelRunner>(fake_, &control_); };
  EXPECT_TRUE(engine.SwapModel(next(), "v2").ok());
  const absl::Status refused = engine.SwapModel(next(), "v3");
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(engine.Model().weights_version, "v2");
  control_.Open();
  sink->AwaitFinished();
}

TEST_F(EngineTest, AFailedStepEndsItsRequestsAndTheEngineGoesOn) {
  Start();
  control_.FailNext(absl::InternalError("the device is on fire"));
  auto sink = Submit(Request({1}, 3));
  const FinishedInfo end = sink->AwaitFinished();
  EXPECT_EQ(end.reason, FinishReason::kFailed);
  EXPECT_THAT(std::string(end.status.message()), HasSubstr("on fire"));
  EXPECT_EQ(Submit(Request({1}, 3))->AwaitFinished().reason, FinishReason::kLength);
}

TEST_F(EngineTest, TellsOnceWhenThreeStepsInARowHaveFailed) {
  std::atomic<int> told = 0;
  absl::Status last;
  Engine& engine = Start({.on_failing = [&](const absl::Status& status) {
    last = status;
    ++told;
  }});
  const auto end = [&] { return Submit(Request({1}, 3))->AwaitFinished().reason; };
  control_.FailNext(absl::InternalError("a hiccup"), 2);
  EXPECT_EQ(end(), FinishReason::kFailed);
  EXPECT_EQ(end(), FinishReason::kFailed);
  EXPECT_EQ(end(), FinishReason::kLength);
  control_.FailNext(absl::InternalError("the device is on fire"), 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(told == 0 || i == 3) << "before step " << i;
    EXPECT_EQ(end(), FinishReason::kFailed);
  }
  engine.Stop();
  EXPECT_EQ(told, 1);
  EXPECT_THAT(std::string(last.message()), HasSubstr("on fire"));
}

TEST_F(EngineTest, DrainingFinishesWhatWasAcceptedAndRefusesMore) {
  Engine& engine = Start();
  control_.Hold();
  auto sink = Submit(Request({1}, 3));
  EXPECT_EQ(engine.Drain(absl::ZeroDuration()).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine.Submit(Request({1}, 3), std::make_shared<RecordingSink>()).status().code(),
            absl::StatusCode::kUnavailable);
  control_.Open();
  EXPECT_TRUE(engine.Drain(absl::Seconds(20)).ok());
  EXPECT_EQ(sink->AwaitFinished().reason, FinishReason::kLength);
}

TEST_F(EngineTest, StoppingCancelsRunningAndWaiting) {
  fake_.max_context = 8192;
  Engine& engine = Start();
  control_.Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int32_t i = 0; i < 6; ++i) sinks.push_back(Submit(Request({i}, 8000)));
  control_.AwaitArrivals(1);
  std::atomic<bool> stopped = false;
  std::thread stopper([&] {
    engine.Stop();
    stopped = true;
  });
  // One step at a time, far fewer than the requests have.
  EXPECT_TRUE(Eventually([&] {
    control_.Allow(1);
    return stopped.load();
  }));
  stopper.join();
  for (auto& sink : sinks) EXPECT_EQ(sink->AwaitFinished().reason, FinishReason::kCancelled);
  EXPECT_EQ(engine.Stats().requests_running, 0);
}

TEST_F(EngineTest, SurvivesCallersFromManyThreads) {
  Engine& engine = Start({.max_queue = 1000});
  std::vector<std::thread> callers;
  std::atomic<int64_t> finished = 0;
  for (int32_t t = 0; t < 4; ++t) {
    callers.emplace_back([&, t] {
      for (int32_t i = 0; i < 25; ++i) {
        auto sink = std::make_shared<RecordingSink>();
        const auto handle = engine.Submit(Request({t, i}, 20), sink);
        ASSERT_TRUE(handle.ok());
        if (i % 3 == 0) engine.Cancel(*handle);
        if (i % 5 == 0) engine.Stats();
        sink->AwaitFinished();
        finished.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < 5; ++i) {
    (void)engine.SwapModel(std::make_unique<FakeModelRunner>(fake_, &control_), "v");
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(finished, 100);
}

}  // namespace
}  // namespace mindforge
