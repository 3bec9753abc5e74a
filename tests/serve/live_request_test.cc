// What waits for a reader, read only when the test says so.
#include "worker/serve/live_request.h"

#include "gtest/gtest.h"
#include "tests/serve/served.h"

namespace mindforge {
namespace {

class LiveRequestTest : public ::testing::Test {
 protected:
  LiveRequestTest()
      : engine_(std::make_shared<Engine>(
            std::make_unique<EchoModelRunner>(
                FakeModelOptions{.vocab_size = kVocab, .max_context = 4096}, &control_),
            "v1", EngineOptions{}, nullptr)) {
    model_->max_context = 4096;
  }

  // Generates all of it before anything is read.
  Heard GenerateThenRead(const v1::GenerateRequest& request, GenerationLimits limits) {
    auto plan = PlanGeneration(request, *model_, {.now = clock_.Now()});
    MF_CHECK_OK(plan);
    auto live = std::make_shared<LiveRequest>(LiveRequest::Env{.model = model_,
                                                               .engine = engine_,
                                                               .clock = &clock_,
                                                               .courier = &courier_,
                                                               .limits = limits},
                                              *std::move(plan));
    Heard heard;
    heard.status = live->Start([] {});
    if (!heard.status.ok()) return heard;
    heard.status = engine_->Drain(absl::Seconds(60));
    if (!heard.status.ok()) return heard;
    v1::GenerateResponse event;
    LiveRequest::Read read;
    while ((read = live->Next(&event, &heard.status)) == LiveRequest::Read::kEvent) {
      heard.events.push_back(event);
    }
    EXPECT_EQ(read, LiveRequest::Read::kEnd);
    return heard;
  }

  const RealClock clock_;
  Courier courier_;
  FakeModelControl control_;
  std::shared_ptr<ServedModel> model_ = TestModel("poems", "v1");
  std::shared_ptr<Engine> engine_;
};

TEST_F(LiveRequestTest, OneLargeEventAndWhatFollowsIsNoSlowReader) {
  v1::GenerateRequest request = Say(std::string("the moon over the river"));
  request.mutable_output()->set_prompt_logprobs(true);
  request.mutable_output()->set_top_logprobs(20);
  request.mutable_output()->set_flush_tokens(4096);
  const Heard heard = GenerateThenRead(request, {.max_buffered_bytes = 5000});
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_GT(heard.started().ByteSizeLong(), 2500u);
  EXPECT_EQ(heard.text(), "the moon over the river");
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(LiveRequestTest, TheEndIsNeverRefused) {
  // The one delta that waits behind `started` is just what may wait.
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_output()->set_flush_tokens(4096);
  const Heard measured = GenerateThenRead(request, {});
  ASSERT_EQ(measured.events.size(), 3u);
  engine_ = std::make_shared<Engine>(
      std::make_unique<EchoModelRunner>(FakeModelOptions{.vocab_size = kVocab, .max_context = 4096},
                                        &control_),
      "v1", EngineOptions{}, nullptr);
  const Heard heard =
      GenerateThenRead(request, {.max_buffered_bytes = measured.events[1].ByteSizeLong()});
  EXPECT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.events.size(), 3u);
}

TEST_F(LiveRequestTest, WhatNobodyReadsIsLimitedHoweverItIsJoined) {
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(1000);
  request.mutable_sampling()->set_n(3);
  const Heard heard = GenerateThenRead(request, {.merge_above = 2, .max_buffered_bytes = 3000});
  EXPECT_EQ(GetReason(heard.status), "SLOW_READER") << heard.status;
  size_t bytes = 0;
  for (const auto& event : heard.events) bytes += event.ByteSizeLong();
  EXPECT_LT(bytes, 4000u);
}

TEST_F(LiveRequestTest, ADeltaIsSentWhenItsBytesAreManyWhateverTheTokens) {
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(400);
  request.mutable_output()->set_top_logprobs(20);
  request.mutable_output()->set_flush_tokens(4096);
  const Heard heard = GenerateThenRead(request, {});
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.ids().size(), 400u);
  EXPECT_GT(heard.deltas().size(), 2u);
  for (const auto& delta : heard.deltas()) EXPECT_LT(delta.ByteSizeLong(), 70u << 10);
}

}  // namespace
}  // namespace mindforge
