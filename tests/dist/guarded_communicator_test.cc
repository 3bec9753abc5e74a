#include "worker/dist/guarded_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <thread>

#include "common/clock.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kShort = absl::Milliseconds(20);
constexpr absl::Duration kLong = absl::Seconds(60);

// A communicator that does what the test says; what hangs does so until it is let go.
class FakeCommunicator : public Communicator {
 public:
  ~FakeCommunicator() override = default;

  absl::Status Form() override {
    MutexLock lock(mutex_);
    former_ = std::this_thread::get_id();
    while (form_hangs && !let_go_) changed_.Wait(mutex_);
    form_returned_ = true;
    changed_.SignalAll();
    return form_result;
  }
  absl::Status Start(absl::Span<const Transfer> transfers) override {
    started += static_cast<int>(transfers.size());
    return start_result;
  }
  absl::StatusOr<bool> Done() override { return ++polls > 3 ? done : false; }
  absl::Status Order() override {
    ++ordered;
    return absl::OkStatus();
  }
  void Abort() override {
    MutexLock lock(mutex_);
    aborter_ = std::this_thread::get_id();
    changed_.SignalAll();
    while (abort_hangs && !let_go_) changed_.Wait(mutex_);
    if (!abort_hangs) let_go_ = true;  // as NCCL's abort ends what is blocked
    abort_returned_ = true;
    changed_.SignalAll();
  }

  // Which thread aborted, once it has begun.
  std::thread::id Aborter() {
    MutexLock lock(mutex_);
    while (!aborter_.has_value()) changed_.Wait(mutex_);
    return *aborter_;
  }
  std::thread::id Former() {
    MutexLock lock(mutex_);
    return former_;
  }
  void WaitUntilFormReturned() {
    MutexLock lock(mutex_);
    while (!form_returned_) changed_.Wait(mutex_);
  }
  bool abort_returned() {
    MutexLock lock(mutex_);
    return abort_returned_;
  }
  void LetGo() {
    MutexLock lock(mutex_);
    let_go_ = true;
    changed_.SignalAll();
  }

  // Set before it is used.
  bool form_hangs = false;
  bool abort_hangs = false;
  absl::Status form_result;
  absl::Status start_result;
  absl::StatusOr<bool> done = true;
  // Of the thread that exchanges.
  int started = 0;
  int polls = 0;
  int ordered = 0;

 private:
  Mutex mutex_;
  CondVar changed_;
  std::thread::id former_ ABSL_GUARDED_BY(mutex_);
  std::optional<std::thread::id> aborter_ ABSL_GUARDED_BY(mutex_);
  bool form_returned_ ABSL_GUARDED_BY(mutex_) = false;
  bool abort_returned_ ABSL_GUARDED_BY(mutex_) = false;
  bool let_go_ ABSL_GUARDED_BY(mutex_) = false;
};

class GuardedCommunicatorTest : public ::testing::Test {
 protected:
  ~GuardedCommunicatorTest() override { fake_->LetGo(); }

  absl::StatusOr<std::unique_ptr<GuardedCommunicator>> Form(absl::Duration timeout) {
    return GuardedCommunicator::Form(fake_, 1, timeout);
  }
  // Of one byte to rank 0, and of none.
  absl::Status Exchange(GuardedCommunicator& communicator, absl::Duration timeout) {
    const Transfer transfers[] = {{.peer = 0, .data = &byte_, .bytes = 1}, {.peer = 0}};
    return communicator.Exchange(transfers, timeout);
  }
  static void ExpectLost(const absl::Status& status, const char* says) {
    EXPECT_TRUE(IsPeerLost(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }

  const std::shared_ptr<FakeCommunicator> fake_ = std::make_shared<FakeCommunicator>();
  char byte_ = 0;
};

TEST_F(GuardedCommunicatorTest, ExchangesAndOrdersTheDeviceBehindIt) {
  const auto formed = Form(kLong);
  ASSERT_TRUE(formed.ok()) << formed.status();
  EXPECT_NE(fake_->Former(), std::this_thread::get_id());
  EXPECT_TRUE(Exchange(**formed, kLong).ok());
  EXPECT_EQ(fake_->started, 1) << "the empty one is left out";
  EXPECT_EQ(fake_->polls, 4);
  EXPECT_EQ(fake_->ordered, 1);
  EXPECT_TRUE((*formed)->Exchange({}, kLong).ok());
  EXPECT_EQ(fake_->ordered, 1);
}

TEST_F(GuardedCommunicatorTest, FormingHasADeadline) {
  fake_->form_hangs = true;
  ExpectLost(Form(kShort).status(), "rank 1: the ranks' devices were not connected within 20ms");
  EXPECT_NE(fake_->Aborter(), std::this_thread::get_id());
  fake_->WaitUntilFormReturned();
}

TEST_F(GuardedCommunicatorTest, AFormationThatFailsIsALostPeer) {
  fake_->form_result = absl::UnavailableError("NCCL failed: no route");
  ExpectLost(Form(kLong).status(), "could not be connected: NCCL failed: no route");
  fake_->Aborter();
}

TEST_F(GuardedCommunicatorTest, NobodyWaitsForAnAbortThatHangs) {
  fake_->form_hangs = true;
  fake_->abort_hangs = true;
  ExpectLost(Form(kShort).status(), "were not connected");
  fake_->Aborter();
  EXPECT_FALSE(fake_->abort_returned());
  fake_->LetGo();
  fake_->WaitUntilFormReturned();
}

TEST_F(GuardedCommunicatorTest, AnExchangeHasADeadline) {
  auto formed = Form(kLong);
  ASSERT_TRUE(formed.ok()) << formed.status();
  fake_->done = false;
  fake_->abort_hangs = true;
  ExpectLost(Exchange(**formed, kShort), "an exchange took longer than 20ms");
  EXPECT_NE(fake_->Aborter(), std::this_thread::get_id());
  EXPECT_EQ(fake_->ordered, 0);
  const int polls = fake_->polls;
  ExpectLost(Exchange(**formed, kLong), "given up before");
  EXPECT_EQ(fake_->polls, polls);
  formed->reset();  // waits for nothing
  EXPECT_FALSE(fake_->abort_returned());
}

TEST_F(GuardedCommunicatorTest, AnExchangeThatFailsIsAbortedAside) {
  const auto formed = Form(kLong);
  ASSERT_TRUE(formed.ok()) << formed.status();
  fake_->done = absl::UnavailableError("NCCL failed: remote process exited");
  ExpectLost(Exchange(**formed, kLong), "rank 1: NCCL failed: remote process exited");
  EXPECT_NE(fake_->Aborter(), std::this_thread::get_id());
  EXPECT_EQ(fake_->ordered, 0);
}

TEST_F(GuardedCommunicatorTest, AStartThatFailsIsALostPeer) {
  const auto formed = Form(kLong);
  ASSERT_TRUE(formed.ok()) << formed.status();
  fake_->start_result = absl::UnavailableError("NCCL failed: unhandled system error");
  ExpectLost(Exchange(**formed, kLong), "unhandled system error");
  EXPECT_EQ(fake_->polls, 0);
  fake_->Aborter();
}

}  // namespace
}  // namespace mindforge
