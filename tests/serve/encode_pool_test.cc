// Tokenizing off gRPC's threads: the pool's limits, and streams that go on beside long texts.
#include "worker/serve/encode_pool.h"

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "common/error_details.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"
#include "tests/serve/served.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST(EncodePool, BoundsWhatWaitsByCallsAndBytes) {
  std::atomic<int> done = 0;
  {
    EncodePool pool({.name = "test", .max_calls = 2, .max_bytes = 100});
    absl::Notification began, go_on;
    ASSERT_TRUE(pool.Run(1000,
                         [&] {
                           began.Notify();
                           go_on.WaitForNotification();
                         })
                    .ok())
        << "an empty queue takes any one";
    began.WaitForNotification();
    const auto count = [&] { ++done; };
    ASSERT_TRUE(pool.Run(60, count).ok());
    const absl::Status heavy = pool.Run(41, count);
    EXPECT_TRUE(absl::IsResourceExhausted(heavy)) << heavy;
    EXPECT_EQ(GetReason(heavy), "QUEUE_FULL");
    ASSERT_TRUE(pool.Run(40, count).ok());
    EXPECT_TRUE(absl::IsResourceExhausted(pool.Run(0, count)));
    go_on.Notify();
  }
  EXPECT_EQ(done, 2) << "what was taken is done before the pool goes";
}

absl::Status Tokenize(Served& served, const std::string& text) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(60));
  v1::TokenizeRequest request;
  request.set_text(text);
  v1::TokenizeResponse response;
  return FromGrpcStatus(served.stub().Tokenize(&context, request, &response));
}

TEST(EncodePool, LongTextsAreRefusedUnread) {
  Served served;
  std::string longest;
  while (longest.size() < size_t{1} << 20) longest += "moon ";
  longest.resize(size_t{1} << 20);
  EXPECT_TRUE(Tokenize(served, longest).ok());
  for (const size_t bytes : {size_t{(1 << 20) + 1}, (size_t{16} << 20) - 64}) {
    const absl::Status status = Tokenize(served, std::string(bytes, 'x'));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("text"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("1048576"));
  }
  grpc::ClientContext context;
  SetDeadline(context, absl::Seconds(60));
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Resize((1 << 20) + 1, 5);
  v1::DetokenizeResponse response;
  EXPECT_TRUE(absl::IsInvalidArgument(
      FromGrpcStatus(served.stub().Detokenize(&context, request, &response))));
}

// As many Tokenize calls as gRPC has threads wait in the pool: streams neither wait nor end.
TEST(EncodePool, StreamsGoOnWhileTextsAreTokenized) {
  Served served;
  absl::Notification go_on;
  ASSERT_TRUE(served.service().texts().Run(0, [&] { go_on.WaitForNotification(); }).ok());
  std::atomic<int> answered = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 40; ++i) {
    callers.emplace_back([&] {
      EXPECT_TRUE(Tokenize(served, "moon").ok());
      ++answered;
    });
  }
  for (int i = 0; i < 20; ++i) {
    const Heard heard = Listen(served.stub(), Say(std::string("moon over the river")));
    EXPECT_TRUE(heard.status.ok()) << heard.status;
    EXPECT_EQ(heard.text(), "moon over the river");
  }
  EXPECT_EQ(answered, 0);
  go_on.Notify();
  for (std::thread& caller : callers) caller.join();
}

TEST(EncodePool, ACallerThatLeavesBeforeItsPromptIsReadCostsNoSlot) {
  Served served;
  absl::Notification go_on, first, second;
  for (absl::Notification* began : {&first, &second}) {  // both of the threads
    ASSERT_TRUE(served.service()
                    .prompts()
                    .Run(0,
                         [&go_on, began] {
                           began->Notify();
                           go_on.WaitForNotification();
                         })
                    .ok());
  }
  first.WaitForNotification();
  second.WaitForNotification();
  grpc::ClientContext context;
  const auto reader = served.stub().Generate(&context, Say(std::string("moon")));
  context.TryCancel();
  v1::GenerateResponse event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  go_on.Notify();
  EXPECT_TRUE(Listen(served.stub(), Say(std::string("moon"))).status.ok());
}

// A prompt that waits for a thread waits on its own time.
TEST(EncodePool, MaxTimeRunsFromTheArrival) {
  FakeClock clock;
  Served served({.clock = &clock});
  absl::Notification go_on, first, second;
  for (absl::Notification* began : {&first, &second}) {
    ASSERT_TRUE(served.service()
                    .prompts()
                    .Run(0,
                         [&go_on, began] {
                           began->Notify();
                           go_on.WaitForNotification();
                         })
                    .ok());
  }
  first.WaitForNotification();
  second.WaitForNotification();
  v1::GenerateRequest request = Say(std::string("moon"));
  request.mutable_stopping()->mutable_max_time()->set_seconds(5);
  Heard heard;
  std::thread caller([&] { heard = Listen(served.stub(), request); });
  ASSERT_TRUE(Eventually([&] { return served.service().prompts().waiting() == 1; }));
  clock.Advance(absl::Seconds(6));
  go_on.Notify();
  caller.join();
  ASSERT_TRUE(heard.status.ok()) << heard.status;
  EXPECT_EQ(heard.finished().reason(), v1::FINISH_REASON_MAX_TIME);
}

}  // namespace
}  // namespace mindforge
