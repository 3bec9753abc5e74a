// The gateway between a client and fake workers, all over gRPC on port 0.
#include <thread>

#include "common/stream_machine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/eventually.h"
#include "tests/gateway/gateway_fixture.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(GatewayTest, PassesAStreamThrough) {
  FakeWorker worker("a");
  Register(worker);
  v1::GenerateRequest request = Request(5);
  request.set_model("poems");
  request.set_request_id("r1");
  const Heard heard = Generate(request);
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.ids, Numbers(5));
  EXPECT_EQ(heard.text, "0 1 2 3 4 ");
  EXPECT_EQ(heard.finished, 1);
  EXPECT_EQ(heard.started.worker_id(), "a");
  EXPECT_EQ(worker.requests().at(0).request_id(), "r1");
}

TEST_F(GatewayTest, SpreadsStreamsByLoad) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  a.Set({.stall_after = 1});
  b.Set({.stall_after = 1});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 6; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    SetDeadline(*contexts.back(), absl::Seconds(60));
    readers.push_back(stub_->Generate(contexts.back().get(), Request(5)));
    v1::GenerateResponse event;
    ASSERT_TRUE(readers.back()->Read(&event));
    ASSERT_TRUE(readers.back()->Read(&event));  // the delta, after which its worker stalls
    ASSERT_TRUE(event.has_delta());
  }
  EXPECT_EQ(a.requests().size(), 3u);
  EXPECT_EQ(b.requests().size(), 3u);
  // Cancellation reaches the workers.
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) {
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(Eventually([&] { return a.cancelled() == 3 && b.cancelled() == 3; }));
  EXPECT_TRUE(Eventually([&] {
    return metrics_.Text().find("mindforge_gateway_requests_in_flight 0") != std::string::npos;
  }));
}

TEST_F(GatewayTest, HandsTheDeadlineOn) {
  FakeWorker worker("a");
  Register(worker);
  worker.Set({.stall_after = 0});
  grpc::ClientContext context;
  SetDeadline(context, absl::Milliseconds(100));
  const auto reader = stub_->Generate(&context, Request(5));
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_LE(worker.newest_timeout(), absl::Milliseconds(150)) << "it travels rounded up";
  EXPECT_TRUE(Eventually([&] { return worker.cancelled() == 1; }));
}

TEST_F(GatewayTest, TriesAnotherWorkerWhenOneRefusesBeforeAnythingIsDelivered) {
  FakeWorker full("a"), draining("b"), dead("c"), good("d");
  for (const FakeWorker* worker : {&full, &draining, &dead, &good}) Register(*worker);
  full.Set({.refuse = Error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "full")});
  draining.Set({.refuse = Error(absl::StatusCode::kUnavailable, "DRAINING", "draining")});
  dead.Kill();
  for (int i = 0; i < 8; ++i) {
    const Heard heard = Generate(Request(3));
    ASSERT_TRUE(heard.status.ok()) << heard.status;
    EXPECT_EQ(heard.ids, Numbers(3));
    EXPECT_EQ(heard.started.worker_id(), "d");
  }
  EXPECT_LE(draining.requests().size(), 1u) << "a worker that failed is tried last for a while";
  EXPECT_GT(Metric("gateway_retries_total"), 0);
  EXPECT_EQ(Continued() + Ended(), 0) << "no stream had begun";
}

TEST_F(GatewayTest, TriesAnotherWorkerWhenOneHasTooManyCallsInHand) {
  FakeWorker busy("a"), good("b");
  Register(busy);
  Register(good);
  busy.Set({.refuse = Error(absl::StatusCode::kResourceExhausted, "SERVER_BUSY", "busy")});
  for (int i = 0; i < 4; ++i) {
    const Heard heard = Generate(Request(3));
    ASSERT_TRUE(heard.status.ok()) << heard.status;
    EXPECT_EQ(heard.started.worker_id(), "b");
  }
  EXPECT_GT(busy.requests().size(), 0u);
  good.Kill();
  EXPECT_EQ(GetReason(Generate(Request(3)).status), "WORKER_UNREACHABLE");
}

TEST_F(GatewayTest, PassesTheRefusalOnWhenEveryWorkerRefuses) {
  FakeWorker worker("a");
  Register(worker);
  worker.Set({.refuse = Error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "full")});
  EXPECT_EQ(GetReason(Generate(Request(3)).status), "QUEUE_FULL");
  worker.Kill();
  const absl::Status unreachable = Generate(Request(3)).status;
  EXPECT_TRUE(absl::IsUnavailable(unreachable));
  EXPECT_EQ(GetReason(unreachable), "WORKER_UNREACHABLE") << unreachable;
  EXPECT_THAT(std::string(unreachable.message()), HasSubstr(" a at "));
  EXPECT_EQ(Metric("gateway_retries_total"), 0) << "there was no other worker to try";
}

TEST_F(GatewayTest, PassesBadInputThroughAsItIs) {
  FakeWorker worker("a"), other("b");
  Register(worker);
  Register(other);
  const absl::Status bad = InvalidArgument("sampling.top_p", "is 7");
  worker.Set({.refuse = bad});
  other.Set({.refuse = bad});
  const absl::Status status = Generate(Request(3)).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetViolations(status), GetViolations(bad));
  EXPECT_EQ(worker.requests().size() + other.requests().size(), 1u);
}

TEST_F(GatewayTest, ContinuesAStreamElsewhereWhenItsWorkerDies) {
  FakeWorker dying("a"), other("b");
  Register(dying);
  dying.Set({.die_after = 4});
  v1::GenerateRequest request = Request(9);
  request.mutable_output()->set_token_ids(false);
  Register(other);
  for (int i = 0; i < 4; ++i) {
    const Heard heard = Generate(request);
    ASSERT_TRUE(heard.status.ok()) << heard.status;
    EXPECT_EQ(heard.text, "0 1 2 3 4 5 6 7 8 ");
    EXPECT_EQ(heard.finished, 1);
    EXPECT_TRUE(heard.ids.empty()) << "the caller did not want ids";
  }
  bool continued = false;
  for (const v1::GenerateRequest& seen : other.requests()) {
    if (seen.resume_token_ids().empty()) continue;
    continued = true;
    EXPECT_EQ(std::vector<int32_t>(seen.resume_token_ids().begin(), seen.resume_token_ids().end()),
              Numbers(4));
    EXPECT_EQ(seen.sampling().seed(), 77u);
  }
  EXPECT_TRUE(continued);
  EXPECT_EQ(Continued(), static_cast<double>(dying.requests().size()));
  EXPECT_EQ(Ended(), 0);
}

TEST_F(GatewayTest, CountsEachTokenOfAContinuedStreamOnce) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  v1::GenerateRequest request = Request(9);
  for (int32_t id : Numbers(2)) request.add_resume_token_ids(id);  // of an earlier call
  a.Set({.die_after = 4});
  b.Set({.die_after = 6});
  const Heard heard = Generate(request);
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  ASSERT_EQ(a.requests().size() + b.requests().size(), 3u) << "it was not continued";
  EXPECT_EQ(heard.end.usage().output_tokens(), static_cast<int>(heard.ids.size()));
  EXPECT_EQ(heard.ids.size(), 7u);
  EXPECT_FALSE(heard.end.timings().has_queued()) << "of the last worker alone";
  const auto& timings = heard.end.timings();
  EXPECT_GT(timings.time_to_first_token().nanos(), 0);
  EXPECT_GT(absl::Nanoseconds(timings.total().nanos()) + absl::Seconds(timings.total().seconds()),
            absl::Nanoseconds(timings.time_to_first_token().nanos()) +
                absl::Seconds(timings.time_to_first_token().seconds()));
}

// A worker that drains has less time for a caller that reads slowly than we have.
TEST_F(GatewayTest, ContinuesElsewhereForACallerTooSlowForADrain) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  for (FakeWorker* worker : {&a, &b}) {
    worker->Set({.die_after = worker == &a ? 2 : 4, .death = CallerDoesNotRead(absl::Seconds(1))});
  }
  const Heard heard = Generate(Request(9));
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.ids, Numbers(9));
}

TEST_F(GatewayTest, ARollingRestartMayComeBackToAWorker) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  a.Set({.die_after = 2});
  b.Set({.die_after = 4});
  const Heard heard = Generate(Request(9));
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.ids, Numbers(9));
  EXPECT_EQ(a.requests().size(), 2u);
  EXPECT_EQ(b.requests().size(), 1u);
  EXPECT_EQ(Continued(), 1);
}

TEST_F(GatewayTest, AContinuationWithoutProgressIsNotTriedForEver) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  a.Set({.die_after = 2});
  b.Set({.die_after = 2});
  const Heard heard = Generate(Request(9));
  EXPECT_EQ(GetReason(heard.status), "STREAM_INTERRUPTED") << heard.status;
  EXPECT_EQ(heard.ids, Numbers(2));
  EXPECT_EQ(a.requests().size() + b.requests().size(), 2u);
}

TEST_F(GatewayTest, CountsAContinuationThatFailedAsEnded) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  a.Set({.die_after = 2});
  b.Set({.refuse = absl::InternalError("no finite logits")});
  EXPECT_TRUE(absl::IsInternal(Generate(Request(9)).status));
  EXPECT_EQ(Continued(), 0);
  EXPECT_EQ(Ended(), 1);
}

TEST_F(GatewayTest, GoesElsewhereWhenAWorkerHasJustTakenAnotherModel) {
  FakeWorker moved("a"), good("b");
  Register(moved);
  moved.Set({.refuse = Error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND", "there is prose")});
  const absl::Status alone = Generate(Request(3)).status;
  EXPECT_TRUE(absl::IsUnavailable(alone)) << alone;
  EXPECT_THAT(std::string(alone.message()), HasSubstr("there is prose"));
  Register(good);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Generate(Request(3)).status.ok());
  EXPECT_GE(moved.requests().size(), 2u);
}

TEST_F(GatewayTest, SaysWhatWasDeliveredWhenAStreamCannotBeContinued) {
  FakeWorker dying("a"), other("b");
  Register(dying);
  Register(other, "v2");
  dying.Set({.die_after = 4});
  other.Set({.die_after = 4, .weights_version = "v2"});
  const Heard heard = Generate(Request(9));
  EXPECT_TRUE(absl::IsUnavailable(heard.status));
  EXPECT_EQ(GetReason(heard.status), "STREAM_INTERRUPTED");
  EXPECT_THAT(std::string(heard.status.message()), HasSubstr("4 tokens"));
  EXPECT_THAT(std::string(heard.status.message()), HasSubstr("these tokens as resume_token_ids"));
  EXPECT_EQ(heard.ids, Numbers(4));
}

TEST_F(GatewayTest, SaysHowToGoOnWithWhatTheCallerHas) {
  FakeWorker dying("a");
  Register(dying);
  dying.Set({.die_after = 4});
  v1::GenerateRequest resumed = Request(9);
  resumed.add_resume_token_ids(100);
  EXPECT_THAT(std::string(Generate(resumed).status.message()),
              HasSubstr("these tokens after those it had in resume_token_ids"));
  v1::GenerateRequest text_alone = Request(9);
  text_alone.mutable_output()->set_token_ids(false);
  const std::string message(Generate(text_alone).status.message());
  EXPECT_THAT(message, Not(HasSubstr("resume_token_ids")));
  EXPECT_THAT(message, HasSubstr("Send the request again"));
}

// What a library multiplies depends on the rows beside it: another worker would go on with tokens
// that this stream may never have had.
TEST_F(GatewayTest, DoesNotContinueAStreamWhoseBitsDependOnTheBatch) {
  for (const char* numerics : {"torch-NVIDIA H200-bf16-1", ""}) {
    FakeWorker a("a"), b("b");
    for (FakeWorker* worker : {&a, &b}) {
      Register(*worker, "v1", numerics);
      worker->Set({.die_after = 4, .numerics_id = numerics});
    }
    const Heard heard = Generate(Request(9));
    EXPECT_TRUE(absl::IsUnavailable(heard.status)) << heard.status;
    EXPECT_EQ(GetReason(heard.status), "STREAM_INTERRUPTED");
    EXPECT_THAT(std::string(heard.status.message()), HasSubstr("4 tokens"));
    EXPECT_EQ(heard.ids, Numbers(4));
    EXPECT_EQ(a.requests().size() + b.requests().size(), 1u);
  }
}

TEST_F(GatewayTest, EndsAContinuationThatMeetsOtherWeights) {
  FakeWorker dying("a"), other("b");
  Register(dying);
  Register(other);  // reported v1 …
  dying.Set({.die_after = 2});
  other.Set({.die_after = 2, .weights_version = "v2"});  // … and has swapped since
  const Heard heard = Generate(Request(9));
  EXPECT_EQ(GetReason(heard.status), "STREAM_INTERRUPTED") << heard.status;
  EXPECT_EQ(heard.ids, Numbers(2));
}

TEST_F(GatewayTest, SaysWhichModelsThereAreAndWhyOneIsNotServed) {
  EXPECT_EQ(GetReason(Generate(Request(1)).status), "NO_MODEL");
  desired_.SetDeployments({{"poems", "waiting for job tang's first checkpoint"}, {"prose", ""}});
  absl::Status status = Generate(Request(1)).status;
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("poems, prose"));
  v1::GenerateRequest request = Request(1);
  request.set_model("poem");
  status = Generate(request).status;
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("poems"));
  request.set_model("poems");
  status = Generate(request).status;
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("waiting for job tang's first checkpoint"));
}

TEST_F(GatewayTest, ForwardsUnaryCallsAndTriesThemElsewhere) {
  FakeWorker bad("a"), good("b");
  Register(bad);
  Register(good);
  bad.Set({.refuse = Error(absl::StatusCode::kUnavailable, "DRAINING", "draining")});
  for (int i = 0; i < 4; ++i) {
    grpc::ClientContext context;
    SetDeadline(context, absl::Seconds(60));
    v1::GetModelInfoResponse info;
    const grpc::Status status = stub_->GetModelInfo(&context, {}, &info);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(info.model(), "b");
  }
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  const grpc::Status status = stub_->Tokenize(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << "as the worker says";
}

TEST_F(GatewayTest, CarriesAHundredStreamsAtOnce) {
  FakeWorker a("a"), b("b");
  Register(a);
  Register(b);
  std::vector<Heard> heard(100);
  std::vector<std::thread> threads;
  for (int i = 0; i < 100; ++i) {
    threads.emplace_back([&, i] { heard[i] = Generate(Request(3 + i % 10)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(heard[i].status.ok()) << heard[i].status;
    EXPECT_EQ(heard[i].ids, Numbers(3 + i % 10));
  }
  EXPECT_GT(a.requests().size(), 20u);
  EXPECT_GT(b.requests().size(), 20u);
}

TEST_F(GatewayTest, ASlowCallerHoldsUpNobodyElse) {
  FakeWorker worker("a");
  Register(worker);
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(60));
  const auto slow = stub_->Generate(&context, Request(3000));
  EXPECT_TRUE(Generate(Request(5)).status.ok());
  int64_t tokens = 0;
  for (v1::GenerateResponse event; slow->Read(&event);) tokens += event.delta().token_ids_size();
  EXPECT_TRUE(slow->Finish().ok());
  EXPECT_EQ(tokens, 3000);
}

}  // namespace
}  // namespace mindforge
