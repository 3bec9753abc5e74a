// What the service refuses, ends early, or does not wait for.
#include <functional>
#include <limits>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"
#include "tests/serve/served.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

struct BadRequest {
  std::string field;
  std::function<void(v1::GenerateRequest&)> spoil;
};

std::vector<BadRequest> BadRequests() {
  using R = v1::GenerateRequest;
  return {
      {"prompt", [](R& r) { r.clear_prompt(); }},
      {"token_ids.ids", [](R& r) { r.mutable_token_ids()->clear_ids(); }},
      {"token_ids.ids[1]", [](R& r) { r.mutable_token_ids()->set_ids(1, kVocab); }},
      {"token_ids.ids[0]", [](R& r) { r.mutable_token_ids()->set_ids(0, -1); }},
      {"prompt", [](R& r) { r.mutable_token_ids()->mutable_ids()->Resize(256, 5); }},
      {"text",
       [](R& r) {
         r.set_text("");
         r.set_add_bos(false);
       }},
      {"text", [](R& r) { r.set_text(std::string(256 * 256 + 1, 'x')); }},
      {"add_bos", [](R& r) { r.set_add_bos(true); }},
      {"chat.messages", [](R& r) { r.mutable_chat(); }},
      {"chat.messages", [](R& r) { r.mutable_chat()->add_messages()->set_role("wizard"); }},
      {"sampling.temperature", [](R& r) { r.mutable_sampling()->set_temperature(-0.1); }},
      {"sampling.temperature", [](R& r) { r.mutable_sampling()->set_temperature(NAN); }},
      {"sampling.top_p", [](R& r) { r.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_p", [](R& r) { r.mutable_sampling()->set_top_p(1.5); }},
      {"sampling.top_k", [](R& r) { r.mutable_sampling()->set_top_k(-1); }},
      {"sampling.min_p", [](R& r) { r.mutable_sampling()->set_min_p(1); }},
      {"sampling.n", [](R& r) { r.mutable_sampling()->set_n(0); }},
      {"sampling.n", [](R& r) { r.mutable_sampling()->set_n(17); }},
      {"repetition_penalty", [](R& r) { r.set_repetition_penalty(0); }},
      {"presence_penalty", [](R& r) { r.set_presence_penalty(INFINITY); }},
      {"frequency_penalty", [](R& r) { r.set_frequency_penalty(1000); }},
      {"stopping.max_new_tokens", [](R& r) { r.mutable_stopping()->set_max_new_tokens(0); }},
      {"stopping.min_new_tokens", [](R& r) { r.mutable_stopping()->set_min_new_tokens(90); }},
      {"stopping.stop_token_ids[0]", [](R& r) { r.mutable_stopping()->add_stop_token_ids(-3); }},
      {"stopping.stop_strings[0]", [](R& r) { r.mutable_stopping()->add_stop_strings(""); }},
      {"stopping.stop_strings[0]",
       [](R& r) { r.mutable_stopping()->add_stop_strings(std::string(257, 'x')); }},
      {"stopping.stop_strings",
       [](R& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop_strings("x");
       }},
      {"stopping.max_time",
       [](R& r) { r.mutable_stopping()->mutable_max_time()->set_seconds(-1); }},
      {"output.top_logprobs", [](R& r) { r.mutable_output()->set_top_logprobs(21); }},
      {"output.top_logprobs",
       [](R& r) {
         r.mutable_output()->set_top_logprobs(1);
         r.mutable_output()->set_logprobs(false);
       }},
      {"output.flush_tokens", [](R& r) { r.mutable_output()->set_flush_tokens(0); }},
      {"output.flush_interval", [](R& r) { r.mutable_output()->mutable_flush_interval(); }},
      {"resume_token_ids[0]", [](R& r) { r.add_resume_token_ids(kVocab); }},
      {"resume_token_ids",
       [](R& r) {
         r.add_resume_token_ids(5);
         r.mutable_sampling()->set_n(2);
       }},
      {"request_id", [](R& r) { r.set_request_id(std::string(257, 'x')); }},
      {"#999", [](R& r) { r.GetReflection()->MutableUnknownFields(&r)->AddVarint(999, 1); }},
  };
}

TEST(Limits, RefusesBadRequestsByField) {
  Served served;
  for (const BadRequest& bad : BadRequests()) {
    v1::GenerateRequest request = Say(std::string("moon river"));
    bad.spoil(request);
    const Heard heard = Listen(served.stub(), request);
    EXPECT_TRUE(absl::IsInvalidArgument(heard.status)) << bad.field << ": " << heard.status;
    const std::vector<FieldViolation> violations = GetViolations(heard.status);
    bool named = false;
    for (const FieldViolation& violation : violations) {
      named |= violation.field.starts_with(bad.field);
    }
    EXPECT_TRUE(named) << bad.field << ": " << heard.status;
    EXPECT_EQ(GetReason(heard.status), "INVALID_FIELD");
    EXPECT_TRUE(heard.events.empty());
  }
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok()) << "it still answers";
}

TEST(Limits, ListsEveryProblemAtOnce) {
  Served served;
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_sampling()->set_temperature(-1);
  request.mutable_sampling()->set_top_k(-1);
  request.mutable_output()->set_flush_tokens(-1);
  EXPECT_EQ(GetViolations(Listen(served.stub(), request).status).size(), 3u);
}

TEST(Limits, RefusesAnUnknownChatTemplateWithTheRemedy) {
  Served served({.adjust = [](ServedModel& model) {
    model.chat_templates = ChatTemplates::Of({{"default", "{{ something else }}"}});
    return absl::OkStatus();
  }});
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_role("user");
  const Heard heard = Listen(served.stub(), request);
  EXPECT_TRUE(absl::IsInvalidArgument(heard.status));
  EXPECT_THAT(std::string(heard.status.message()), HasSubstr("text"));
}

TEST(Limits, ATooLargeLimitOnTokensEndsWithLength) {
  Served served;
  for (const int32_t most : {1 << 30, (1 << 30) + 1, std::numeric_limits<int32_t>::max()}) {
    v1::GenerateRequest request = Say(std::string("moon river"));
    request.mutable_stopping()->set_max_new_tokens(most);
    request.mutable_sampling()->set_top_k(most);
    const Heard heard = Listen(served.stub(), request);
    ASSERT_TRUE(heard.status.ok()) << most << ": " << heard.status;
    EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_LENGTH);
    const auto& usage = heard.finished().usage();
    EXPECT_EQ(usage.prompt_tokens() + usage.output_tokens(), 256) << "the whole context";
  }
}

TEST(Limits, AFullQueueIsSaidBeforeThePromptIsLookedAt) {
  Served served({.runner = {.vocab_size = kVocab, .slots = 1}, .engine = {.max_queue = 1}});
  served.control().Hold();
  std::vector<std::thread> threads;
  threads.emplace_back([&] { Listen(served.stub(), Say(std::string("one"))); });
  served.control().AwaitArrivals(1);
  threads.emplace_back([&] { Listen(served.stub(), Say(std::string("two"))); });
  ASSERT_TRUE(Eventually([&] { return served.Metric("requests_waiting") == 1; }));
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_role("wizard");
  const Heard heard = Listen(served.stub(), request);
  EXPECT_EQ(GetReason(heard.status), "QUEUE_FULL") << heard.status;
  served.control().Open();
  for (std::thread& thread : threads) thread.join();
}

TEST(Limits, KnowsNoOtherModelAndSaysWhenThereIsNone) {
  Served served({.load = false});
  v1::GenerateRequest request = Say(std::string("moon"));
  Heard heard = Listen(served.stub(), request);
  EXPECT_TRUE(absl::IsUnavailable(heard.status)) << heard.status;
  served.host().SetDesired(Desire("poems", "v1"));
  ASSERT_TRUE(served.host().WaitUntilSettled().ok());
  request.set_model("prose");
  heard = Listen(served.stub(), request);
  EXPECT_TRUE(absl::IsNotFound(heard.status)) << heard.status;
  EXPECT_THAT(std::string(heard.status.message()), HasSubstr("poems"));
}

TEST(Limits, RefusesWhatTheQueueCannotHold) {
  Served served({.runner = {.vocab_size = kVocab, .slots = 1}, .engine = {.max_queue = 1}});
  served.control().Hold();
  std::vector<std::thread> threads;
  Heard first, second;
  threads.emplace_back([&] { first = Listen(served.stub(), Say(std::string("one"))); });
  served.control().AwaitArrivals(1);
  threads.emplace_back([&] { second = Listen(served.stub(), Say(std::string("two"))); });
  ASSERT_TRUE(Eventually([&] { return served.Metric("requests_waiting") == 1; }));
  const Heard third = Listen(served.stub(), Say(std::string("three")));
  EXPECT_TRUE(absl::IsResourceExhausted(third.status)) << third.status;
  EXPECT_EQ(GetReason(third.status), "QUEUE_FULL");
  served.control().Open();
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(first.status.ok() && second.status.ok());
}

TEST(Limits, ARequestOfManySequencesIsRefusedWholeWhenTheyDoNotFit) {
  Served served({.runner = {.vocab_size = kVocab, .slots = 1}, .engine = {.max_queue = 1}});
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_sampling()->set_n(16);
  for (int i = 0; i < 30; ++i) {
    served.control().Hold();
    const Heard heard = Listen(served.stub(), request);
    EXPECT_EQ(GetReason(heard.status), "QUEUE_FULL") << heard.status;
    EXPECT_TRUE(heard.events.empty());
    served.control().Open();
    ASSERT_TRUE(Eventually([&] { return served.host().State().stats.requests_running == 0; }));
  }
}

TEST(Limits, CancellingHalfOfManyStreamsFreesTheirSlots) {
  Served served({.runner = {.vocab_size = kVocab, .max_context = 4096, .slots = 16}});
  served.control().Hold();
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(100);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 16; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    SetDeadline(*contexts.back(), absl::Seconds(60));
    readers.push_back(served.stub().Generate(contexts.back().get(), request));
  }
  // Steps until all are in the batch.
  ASSERT_TRUE(Eventually([&] {
    served.control().Allow(1);
    return served.Metric("requests_running") == 16;
  }));
  for (int i = 0; i < 8; ++i) contexts[i]->TryCancel();
  ASSERT_TRUE(Eventually([&] {
    served.control().Allow(1);
    return served.Metric("requests_total{reason=\"cancelled\"}") == 8;
  }));
  served.control().Open();
  for (int i = 0; i < 16; ++i) {
    v1::GenerateResponse event;
    while (readers[i]->Read(&event)) {
    }
    const grpc::Status status = readers[i]->Finish();
    EXPECT_EQ(status.error_code(), i < 8 ? grpc::StatusCode::CANCELLED : grpc::StatusCode::OK);
  }
  EXPECT_EQ(served.Metric("cancel_to_slot_free_steps_count"), 8);
  EXPECT_EQ(served.Metric("cancel_to_slot_free_steps_bucket{le=\"2\"}"), 8)
      << "a slot was held for more than two steps after the cancellation";
}

TEST(Limits, EndsAtTheCallsDeadline) {
  Served served;
  served.control().Hold();
  const Heard late =
      Listen(served.stub(), Say(std::string("moon")), /*timeout=*/absl::Milliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.status)) << late.status;
  served.control().Open();
  EXPECT_TRUE(Eventually([&] { return served.Metric("requests_running") == 0; }));
}

TEST(Limits, EndsAtMaxTime) {
  FakeClock clock;
  Served served({.clock = &clock});
  served.control().Hold();
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_stopping()->mutable_max_time()->set_seconds(5);
  Heard timed;
  std::thread thread([&] { timed = Listen(served.stub(), request); });
  served.control().AwaitArrivals(1);
  // Its time is over before the step is.
  clock.Advance(absl::Seconds(5));
  served.control().Open();
  thread.join();
  ASSERT_TRUE(timed.status.ok()) << timed.status;
  EXPECT_EQ(timed.finished().reason(), v1::FINISH_REASON_MAX_TIME);
}

TEST(Limits, ASlowReaderIsEndedAndHoldsUpNobody) {
  Served served({.runner = {.vocab_size = kVocab, .max_context = 8192, .slots = 2},
                 .limits = {.merge_above = 4, .max_buffered_bytes = 64 << 10}});
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(4000);
  request.mutable_output()->set_top_logprobs(20);
  const auto slow = NarrowStub(served.server().address(), 64 << 10);
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(60));
  const auto reader = slow->Generate(&context, request);
  // Nobody reads; the stream's and the service's buffers fill, and the engine goes on.
  ASSERT_TRUE(
      Eventually([&] { return served.Metric("requests_total{reason=\"cancelled\"}") == 1; }));
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
  v1::GenerateResponse event;
  int64_t tokens = 0;
  while (reader->Read(&event)) tokens += event.delta().token_ids_size();
  const absl::Status status = FromGrpcStatus(reader->Finish());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(GetReason(status), "SLOW_READER");
  EXPECT_GT(tokens, 0);
  EXPECT_LT(tokens, 4000);
}

TEST(Limits, DrainingFinishesWhatRunsAndRefusesTheRest) {
  Served served;
  served.control().Hold();
  Heard running;
  std::thread stream([&] { running = Listen(served.stub(), Say(std::string("moon river"))); });
  served.control().AwaitArrivals(1);
  std::thread drain([&] { EXPECT_TRUE(served.host().Drain(absl::Seconds(60)).ok()); });
  ASSERT_TRUE(Eventually([&] { return served.host().State().draining; }));
  const Heard refused = Listen(served.stub(), Say(std::string("late")));
  EXPECT_TRUE(absl::IsUnavailable(refused.status)) << refused.status;
  EXPECT_EQ(GetReason(refused.status), "DRAINING");
  served.control().Open();
  stream.join();
  drain.join();
  EXPECT_TRUE(running.status.ok()) << running.status;
  EXPECT_EQ(running.text(), "moon river");
}

TEST(Limits, AFailingDeviceEndsTheRequestAndNotTheService) {
  Served served;
  served.control().FailNext(absl::InternalError("the device fell over"));
  const Heard failed = Listen(served.stub(), Say(std::string("moon")));
  EXPECT_TRUE(absl::IsInternal(failed.status)) << failed.status;
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
}

}  // namespace
}  // namespace mindforge
