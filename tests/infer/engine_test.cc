#include "worker/infer/engine.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/infer/engine_fixture.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST_F(EngineTest, ContinuesAPrompt) {
  Start();
  auto sink = Submit(Request({3, 1, 4}, 8));
  const FinishedInfo end = sink->AwaitFinished();
  EXPECT_EQ(end.reason, FinishReason::kLength);
  EXPECT_EQ(end.prompt_tokens, 3);
  EXPECT_EQ(end.generated_tokens, 8);
  EXPECT_EQ(sink->token_ids(), FakeModelRunner::Continue(fake_, {3, 1, 4}, 8));
  EXPECT_EQ(sink->started()->weights_version, "v1");
  EXPECT_EQ(sink->started()->numerics_id, "fake-1");
  EXPECT_EQ(sink->tokens()[5].index, 5);
}

TEST_F(EngineTest, ManyMoreRequestsThanSlotsAllGetTheirOwnTokens) {
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int32_t i = 0; i < 40; ++i) sinks.push_back(Submit(Request({i, 7, i}, 3 + i % 9)));
  for (int32_t i = 0; i < 40; ++i) {
    sinks[i]->AwaitFinished();
    EXPECT_EQ(sinks[i]->token_ids(), FakeModelRunner::Continue(fake_, {i, 7, i}, 3 + i % 9));
  }
  EXPECT_EQ(observer_.most_rows, fake_.slots);
}

TEST_F(EngineTest, ARequestJoinsWhileAnotherDecodes) {
  Start();
  control_.Hold();
  auto first = Submit(Request({1}, 6));
  control_.AwaitArrivals(1);
  control_.Allow(2);
  control_.AwaitArrivals(3);
  auto second = Submit(Request({2}, 2));
  control_.Allow(1);
  control_.AwaitArrivals(4);
  EXPECT_EQ(control_.batches()[2].size(), 1u);
  EXPECT_EQ(control_.batches()[3].size(), 2u);
  control_.Open();
  first->AwaitFinished();
  second->AwaitFinished();
  EXPECT_EQ(first->token_ids(), FakeModelRunner::Continue(fake_, {1}, 6));
  EXPECT_EQ(second->token_ids(), FakeModelRunner::Continue(fake_, {2}, 2));
}

TEST_F(EngineTest, ALongPromptIsPrefilledInChunksBesideDecodes) {
  Start({.prefill_chunk_tokens = 8, .prefill_alone_tokens = 32});
  control_.Hold();
  auto stream = Submit(Request({1}, 40));
  control_.AwaitArrivals(1);
  control_.Allow(1);
  control_.AwaitArrivals(2);
  std::vector<int32_t> prompt(30, 5);
  auto joiner = Submit(Request(prompt, 2));
  control_.Allow(4);
  control_.AwaitArrivals(6);
  const auto batches = control_.batches();
  for (int i = 2; i < 6; ++i) {
    ASSERT_EQ(batches[i].size(), 2u) << "step " << i;
    EXPECT_EQ(batches[i][0].tokens, 1) << "the stream goes on in every step";
    EXPECT_EQ(batches[i][1].start_position, (i - 2) * 8);
    EXPECT_LE(batches[i][1].tokens, 8);
  }
  control_.Open();
  joiner->AwaitFinished();
  EXPECT_EQ(joiner->token_ids(), FakeModelRunner::Continue(fake_, prompt, 2));
  stream->AwaitFinished();
}

TEST_F(EngineTest, CancellingFreesTheSlotBeforeTheNextStep) {
  Engine& engine = Start();
  control_.Hold();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  std::vector<RequestHandle> handles;
  for (int32_t i = 0; i < fake_.slots; ++i) {
    sinks.push_back(Submit(Request({i}, 100)));
    handles.push_back(last_);
  }
  control_.AwaitArrivals(1);
  control_.Allow(2);
  control_.AwaitArrivals(3);
  auto waiting = Submit(Request({9}, 2));
  EXPECT_EQ(engine.Stats().requests_waiting, 1);
  engine.Cancel(handles[0]);
  control_.Allow(1);
  control_.AwaitArrivals(4);
  EXPECT_EQ(sinks[0]->AwaitFinished().reason, FinishReason::kCancelled);
  EXPECT_EQ(control_.batches()[3].back().start_position, 0) << "the waiting request has the slot";
  EXPECT_EQ(observer_.freed, 1);
  EXPECT_EQ(observer_.most_steps, 0);
  control_.Open();
  EXPECT_EQ(waiting->AwaitFinished().reason, FinishReason::kLength);
  for (int32_t i = 1; i < fake_.slots; ++i) sinks[i]->AwaitFinished();
}

TEST_F(EngineTest, AQueuedRequestCanBeCancelled) {
  Engine& engine = Start();
  control_.Hold();
  for (int32_t i = 0; i < fake_.slots; ++i) Submit(Request({i}, 100));
  control_.AwaitArrivals(1);
  auto waiting = Submit(Request({9}, 2));
  engine.Cancel(last_);
  control_.Allow(1);
  EXPECT_EQ(waiting->AwaitFinished().reason, FinishReason::kCancelled);
  EXPECT_FALSE(waiting->started().has_value());
}

TEST_F(EngineTest, AFullQueueRefuses) {
  Engine& engine = Start({.max_queue = 2});
  control_.Hold();
  auto first = Submit(Request({1}, 2));
  control_.AwaitArrivals(1);
  Submit(Request({2}, 2));
  Submit(Request({3}, 2));
  auto sink = std::make_shared<RecordingSink>();
  const auto refused = engine.Submit(Request({4}, 2), sink);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("limit is 2"));
  control_.Open();
  first->AwaitFinished();
  EXPECT_FALSE(sink->finished());
}

TEST_F(EngineTest, HigherPriorityIsAdmittedFirst) {
  fake_.slots = 1;
  Start();
  control_.Hold();
  auto running = Submit(Request({1}, 1));
  control_.AwaitArrivals(1);
  GenerationRequest low = Request({2}, 1);
  GenerationRequest high = Request({3}, 1);
  high.priority = 5;
  auto low_sink = Submit(low);
  auto high_sink = Submit(high);
  control_.Allow(2);
  high_sink->AwaitFinished();
  EXPECT_FALSE(low_sink->finished());
  control_.Open();
  low_sink->AwaitFinished();
}

TEST_F(EngineTest, EndsAtItsDeadlineAndNotATickBefore) {
  Start();
  control_.Hold();
  GenerationRequest request = Request({1}, 100);
  request.stopping.deadline = clock_.Now() + absl::Seconds(5);
  auto sink = Submit(request);
  control_.AwaitArrivals(1);
  clock_.Advance(absl::Seconds(5) - absl::Nanoseconds(1));
  control_.Allow(1);
  control_.AwaitArrivals(2);
  EXPECT_FALSE(sink->finished());
  clock_.Advance(absl::Nanoseconds(1));
  control_.Allow(1);
  const FinishedInfo end = sink->AwaitFinished();
  EXPECT_EQ(end.reason, FinishReason::kMaxTime);
  EXPECT_EQ(end.generated_tokens, 2);
}

TEST_F(EngineTest, StopsAtEndOfSequenceUnlessTold) {
  Start();
  const std::vector<int32_t> expected = FakeModelRunner::Continue(fake_, {3, 1}, 6);
  GenerationRequest request = Request({3, 1}, 6);
  request.stopping.eos_token_ids = {expected[3]};
  auto sink = Submit(request);
  EXPECT_EQ(sink->AwaitFinished().reason, FinishReason::kEos);
  const auto first = std::find(expected.begin(), expected.end(), expected[3]);
  EXPECT_EQ(sink->token_ids(), std::vector<int32_t>(expected.begin(), first + 1));
  EXPECT_TRUE(sink->tokens().back().ends);

  request.stopping.ignore_eos = true;
  auto ignoring = Submit(request);
  EXPECT_EQ(ignoring->AwaitFinished().reason, FinishReason::kLength);
  EXPECT_EQ(ignoring->token_ids(), expected);

  request.stopping.stop_token_ids = {expected[1]};
  EXPECT_EQ(Submit(request)->AwaitFinished().reason, FinishReason::kStopToken);
}

TEST_F(EngineTest, NoEndIsDrawnBeforeMinNewTokens) {
  Start();
  const int32_t first = FakeModelRunner::Next(fake_, {3, 1});
  GenerationRequest request = Request({3, 1}, 4);
  request.stopping.eos_token_ids = {first};
  request.stopping.min_new_tokens = 1;
  auto sink = Submit(request);
  sink->AwaitFinished();
  EXPECT_NE(sink->token_ids().at(0), first);
}

TEST_F(EngineTest, TheSinkCanStopItsRequest) {
  Start();
  auto sink = std::make_shared<RecordingSink>();
  sink->on_token = [](const TokenInfo& token) { return token.index < 2; };
  ASSERT_TRUE(engine_->Submit(Request({1}, 50), sink).ok());
  const FinishedInfo end = sink->AwaitFinished();
  EXPECT_EQ(end.reason, FinishReason::kStop);
  EXPECT_EQ(end.generated_tokens, 3);
}

TEST_F(EngineTest, TheContextsEndIsLength) {
  fake_.max_context = 12;
  Start();
  auto sink = Submit(Request({1, 2, 3, 4}, 1000));
  EXPECT_EQ(sink->AwaitFinished().reason, FinishReason::kLength);
  EXPECT_EQ(sink->token_ids().size(), 8u);
}

TEST_F(EngineTest, ContinuesFromResumedTokens) {
  Start();
  const std::vector<int32_t> whole = FakeModelRunner::Continue(fake_, {5, 6}, 9);
  GenerationRequest request = Request({5, 6}, 9);
  request.resumed.assign(whole.begin(), whole.begin() + 4);
  auto sink = Submit(request);
  const FinishedInfo end = sink->AwaitFinished();
  EXPECT_EQ(end.generated_tokens, 5);
  EXPECT_EQ(sink->token_ids(), std::vector<int32_t>(whole.begin() + 4, whole.end()));
  EXPECT_EQ(sink->tokens()[0].index, 4);
}

TEST_F(EngineTest, ResumedSamplingDrawsTheSameTokens) {
  Start();
  GenerationRequest request = Request({5, 6}, 12);
  request.sampling = {.temperature = 5.0,
                      .seed = 7,
                      .repetition_penalty = 1.1,
                      .presence_penalty = 0.4,
                      .frequency_penalty = 0.2};
  auto whole = Submit(request);
  whole->AwaitFinished();
  const std::vector<int32_t> ids = whole->token_ids();
  request.resumed.assign(ids.begin(), ids.begin() + 5);
  auto rest = Submit(request);
  rest->AwaitFinished();
  EXPECT_EQ(rest->token_ids(), std::vector<int32_t>(ids.begin() + 5, ids.end()));
}

TEST_F(EngineTest, ScoresThePromptAcrossChunks) {
  Start({.prefill_alone_tokens = 3});
  GenerationRequest request = Request({3, 1, 4, 1, 5, 9, 2}, 2);
  request.prompt[3] = FakeModelRunner::Next(fake_, {3, 1, 4});
  request.prompt_logprobs = true;
  request.logprobs = true;
  request.top_logprobs = 2;
  auto sink = Submit(request);
  sink->AwaitFinished();
  const auto scores = sink->prompt_scores();
  ASSERT_EQ(scores.size(), 6u);
  for (size_t i = 0; i < scores.size(); ++i)
    EXPECT_EQ(scores[i].token.token, request.prompt[i + 1]);
  EXPECT_NEAR(scores[2].token.logprob, 0, 0.01);  // the token that the fake predicts
  EXPECT_NEAR(sink->tokens()[0].logprob, 0, 0.01);
  ASSERT_EQ(sink->tokens()[0].top.size(), 2u);
  EXPECT_EQ(sink->tokens()[0].top[0].token, sink->tokens()[0].token);
}

TEST_F(EngineTest, RefusesWhatCannotWork) {
  Engine& engine = Start();
  struct Case {
    const char* what;
    std::function<void(GenerationRequest&)> spoil;
  };
  const std::vector<Case> cases = {
      {"empty", [](auto& r) { r.prompt.clear(); }},
      {"no room", [](auto& r) { r.prompt.assign(256, 1); }},
      {"vocabulary", [](auto& r) { r.prompt[0] = 64; }},
      {"vocabulary", [](auto& r) { r.prompt[0] = -1; }},
      {"resume_token_ids", [](auto& r) { r.resumed = {64}; }},
      {"no room", [](auto& r) { r.resumed.assign(255, 1); }},
      {"temperature", [](auto& r) { r.sampling.temperature = -1; }},
      {"temperature", [](auto& r) { r.sampling.temperature = NAN; }},
      {"top_p", [](auto& r) { r.sampling.top_p = 1.5; }},
      {"min_p", [](auto& r) { r.sampling.min_p = -0.1; }},
      {"top_k", [](auto& r) { r.sampling.top_k = -1; }},
      {"repetition_penalty", [](auto& r) { r.sampling.repetition_penalty = 0; }},
      {"max_new_tokens", [](auto& r) { r.stopping.max_new_tokens = -1; }},
      {"min_new_tokens", [](auto& r) { r.stopping.min_new_tokens = 5; }},
      {"stop_token_ids", [](auto& r) { r.stopping.stop_token_ids = {99}; }},
      {"top_logprobs", [](auto& r) { r.top_logprobs = 65; }},
  };
  for (const Case& c : cases) {
    GenerationRequest request = Request({1, 2}, 4);
    c.spoil(request);
    const auto result = engine.Submit(request, std::make_shared<RecordingSink>());
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << c.what;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(c.what));
  }
}

}  // namespace
}  // namespace mindforge
