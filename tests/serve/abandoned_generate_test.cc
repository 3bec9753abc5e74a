// Readers of the inference server's own Generate that go away, in every way and at any moment: what
// they had comes back, their slots in the batch too.
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/call_count.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "tests/fakes/abandoned_readers.h"
#include "tests/serve/served.h"
#include "worker/serve/generate_calls.h"

namespace mindforge {
namespace {

// A slot for every reader, so that all have begun when they are abandoned.
ServedOptions Crowded() {
  ServedOptions options;
  options.runner = {.vocab_size = kVocab,
                    .max_context = 32 << 10,
                    .slots = AbandonedCount() + 1,
                    .max_batch_tokens = AbandonedCount() + 64};
  options.engine.max_queue = AbandonedCount() + 1;
  return options;
}

bool Idle(Served& served) {
  const EngineStats stats = served.host().State().stats;
  return stats.requests_running + stats.requests_waiting == 0;
}

TEST(AbandonedGenerate, LeavesNothingBehind) {
  ServedOptions options = Crowded();
  options.streams.unread = absl::Milliseconds(500);
  options.connection_idle = absl::Milliseconds(500);
  Served served(options);
  for (const std::string way : kWaysToAbandon) {
    // The fake model remembers every step.
    EXPECT_TRUE(
        IsAsBeforeAfter(served.server().address(), "generate", way, {.kept_bytes = 32 << 20}))
        << way;
    EXPECT_TRUE(Eventually([&] { return Idle(served); })) << way << ": a slot is not free";
  }
}

TEST(AbandonedGenerate, HoldsUpNoDrain) {
  Served served(Crowded());
  const auto readers = Abandon(served.server().address(), "generate", "silent", AbandonedCount());
  const absl::Time start = absl::Now();
  served.streams().Drain();
  EXPECT_TRUE(served.host().Drain(absl::Seconds(60)).ok());
  served.host().Stop();
  served.server().Drain(absl::Seconds(60));
  ExpectQuickDrain(absl::Now() - start, AbandonedCount());
}

TEST(AbandonedGenerate, ASilentReaderIsToldAndItsSlotGoesToTheNext) {
  ServedOptions options;
  options.runner = {.vocab_size = kVocab, .max_context = 32 << 10, .slots = 1};
  options.limits.max_buffered_bytes = size_t{1} << 30;  // it is not its output that ends it
  options.streams.unread = absl::Milliseconds(200);
  Served served(options);
  served.control().Hold();
  v1::GenerateRequest request = Say(std::string("on and on"));
  request.mutable_stopping()->set_max_new_tokens(30'000);
  const auto silent = NarrowStub(served.server().address(), 1 << 10);
  grpc::ClientContext context;
  SetDeadline(context, absl::Minutes(5));
  const auto reader = silent->Generate(&context, request);
  ASSERT_TRUE(Eventually([&] {
    served.control().Allow(1);
    return served.Metric("requests_total{reason=\"cancelled\"}") == 1;
  }));
  served.control().Open();
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
  v1::GenerateResponse event;
  while (reader->Read(&event)) {
  }
  const absl::Status status = FromGrpcStatus(reader->Finish());
  EXPECT_TRUE(absl::IsAborted(status)) << status;
}

TEST(AbandonedGenerate, AReaderThatWaitsForTheModelIsNotSilent) {
  ServedOptions options;
  options.streams.unread = absl::Milliseconds(20);
  Served served(options);
  served.control().Hold();
  Heard heard;
  std::thread reader(
      [&] { heard = Listen(served.stub(), Say(std::string("moon over the river"))); });
  served.control().AwaitArrivals(1);
  // Several limits pass without a token.
  ASSERT_TRUE(Eventually([&, start = served.streams().Now()] {
    return served.streams().Now() - start > 5 * options.streams.unread;
  }));
  served.control().Open();
  reader.join();
  EXPECT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.text(), "moon over the river");
}

// Generate with a preparation that waits until its caller has gone.
class SlowToPrepare : public v1::InferenceService::CallbackService {
 public:
  SlowToPrepare(Served& served, EncodePool& pool, CallCount& calls)
      : served_(served), pool_(pool), calls_(calls) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return StreamGeneration(served_.streams(), context, absl::OkStatus(), pool_, 0,
                            [=, this] { return Prepare(*context, *request); });
  }

  absl::Notification& begun() { return begun_; }
  // What the request was when its caller had gone.
  const v1::GenerateRequest& seen() const { return seen_; }
  bool prepared() const { return prepared_; }

 private:
  absl::StatusOr<std::shared_ptr<LiveRequest>> Prepare(const grpc::CallbackServerContext& context,
                                                       const v1::GenerateRequest& request) {
    begun_.Notify();
    EXPECT_TRUE(Eventually([&] { return context.IsCancelled(); }));
    EXPECT_FALSE(calls_.WaitForNone(absl::Milliseconds(200))) << "its request may be gone";
    seen_ = request;
    const Serving serving = served_.host().Current();
    absl::StatusOr<GenerationPlan> plan = PlanGeneration(
        request, *serving.model, {.now = absl::Now(), .call_deadline = absl::InfiniteFuture()});
    if (!plan.ok()) return plan.status();
    prepared_ = true;
    return std::make_shared<LiveRequest>(LiveRequest::Env{.model = serving.model,
                                                          .engine = serving.engine,
                                                          .clock = &clock_,
                                                          .courier = &courier_},
                                         *std::move(plan));
  }

  Served& served_;
  EncodePool& pool_;
  CallCount& calls_;
  const RealClock clock_;
  Courier courier_;
  absl::Notification begun_;
  v1::GenerateRequest seen_;
  std::atomic<bool> prepared_ = false;
};

TEST(AbandonedGenerate, ACallerThatLeavesWhileItsPromptIsReadCostsNoSlot) {
  Served served;
  const v1::GenerateRequest request = Say(std::string("moon over the river"));
  {
    EncodePool pool({.name = "encode-test"});
    const auto calls = std::make_shared<CallCount>();
    SlowToPrepare service(served, pool, *calls);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(MakeCountInterceptor(calls));
    builder.experimental().SetInterceptorCreators(std::move(creators));
    const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    auto channel = MakeChannel(absl::StrCat("127.0.0.1:", port));
    ASSERT_TRUE(channel.ok());
    const auto stub = v1::InferenceService::NewStub(*channel);
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    service.begun().WaitForNotification();
    context.TryCancel();
    v1::GenerateResponse event;
    EXPECT_FALSE(reader->Read(&event));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(calls->WaitForNone(absl::Seconds(60)));
    EXPECT_TRUE(service.prepared());
    EXPECT_EQ(service.seen().SerializeAsString(), request.SerializeAsString());
  }
  EXPECT_TRUE(Eventually([&] { return Idle(served); }));
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
}

}  // namespace
}  // namespace mindforge
