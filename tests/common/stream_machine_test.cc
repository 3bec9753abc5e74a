#include "common/stream_machine.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace mindforge {
namespace {

using Act = StreamMachine::Act;
constexpr absl::Duration kLimit = absl::Seconds(60);

TEST(StreamMachine, SendsOneAfterTheOtherAndFinishesWhenAsked) {
  StreamMachine machine;
  EXPECT_EQ(machine.Write(absl::ZeroDuration()), (Act{.write = true}));
  EXPECT_EQ(machine.WriteDone(true), (Act{.sent = true}));
  EXPECT_EQ(machine.Write(absl::ZeroDuration()), (Act{.write = true}));
  EXPECT_EQ(machine.WriteDone(true), (Act{.sent = true}));
  EXPECT_EQ(machine.End(absl::OkStatus()), (Act{.finish = true}));
  EXPECT_TRUE(machine.end().ok());
}

TEST(StreamMachine, FinishesWhenAWriteFails) {
  StreamMachine machine;
  machine.Write(absl::ZeroDuration());
  EXPECT_EQ(machine.WriteDone(false), (Act{.gone = true, .finish = true}));
  EXPECT_EQ(machine.end().code(), absl::StatusCode::kCancelled);
}

TEST(StreamMachine, FinishesWhenTheCallerLeavesWhileNothingIsWritten) {
  StreamMachine machine;
  EXPECT_EQ(machine.CallerGone(), (Act{.gone = true, .finish = true}));
  EXPECT_EQ(machine.CallerGone(), Act{});
  EXPECT_EQ(machine.Write(absl::ZeroDuration()), Act{}) << "dropped";
}

TEST(StreamMachine, WaitsForTheWriteOfACallerThatLeft) {
  StreamMachine machine;
  machine.Write(absl::ZeroDuration());
  EXPECT_EQ(machine.CallerGone(), (Act{.gone = true}));
  EXPECT_EQ(machine.WriteDone(false), (Act{.finish = true}));
}

TEST(StreamMachine, GivesACallerUpExactlyAtTheLimit) {
  StreamMachine machine;
  EXPECT_EQ(machine.Look(absl::Hours(1), kLimit), Act{}) << "nothing waits";
  machine.Write(absl::Seconds(5));
  EXPECT_EQ(machine.Look(absl::Seconds(65) - absl::Nanoseconds(1), kLimit), Act{});
  EXPECT_EQ(machine.Look(absl::Seconds(65), kLimit), (Act{.gone = true, .abort = true}));
  EXPECT_EQ(machine.Look(absl::Seconds(66), kLimit), Act{}) << "once";
  // While the call is being cancelled it must not end, whoever is first.
  EXPECT_EQ(machine.WriteDone(false), Act{});
  EXPECT_EQ(machine.AbortReturned(), (Act{.finish = true}));
  EXPECT_EQ(machine.end().code(), absl::StatusCode::kAborted);
}

TEST(StreamMachine, DoesNotFinishWhileItIsHeld) {
  StreamMachine machine;
  machine.Hold();
  EXPECT_EQ(machine.CallerGone(), (Act{.gone = true}));
  EXPECT_EQ(machine.End(absl::InternalError("late")), Act{});
  EXPECT_EQ(machine.Release(), (Act{.finish = true}));
  EXPECT_EQ(machine.end().code(), absl::StatusCode::kCancelled) << "the first end counts";
}

// Every order of events up to a length: whatever happens, a stream that has ended and owes nothing
// has finished, once, and nothing is written or told after its end.
class AllOrders {
 public:
  void Explore(int left) {
    CheckNow();
    if (left == 0) return;
    const AllOrders before = *this;
    for (const char event : {'w', 'd', 'f', 'e', 'g', 'l', 'a', 'h', 'r'}) {
      if (!Possible(event)) continue;
      path_ += event;
      Apply(event);
      Explore(left - 1);
      *this = before;
      ++explored;
    }
  }

  static int explored;

 private:
  bool Possible(char event) const {
    switch (event) {
      case 'w':
        return !writing_;
      case 'd':
      case 'f':
        return writing_;
      case 'a':
        return aborting_;
      case 'h':
        return holds_ < 1 && finishes_ == 0;
      case 'r':
        return holds_ > 0;
      default:
        return true;
    }
  }

  void Apply(char event) {
    const bool ended = machine_.ended();
    const Act act = [&]() -> Act {
      switch (event) {
        case 'w':
          return machine_.Write(now_);
        case 'd':
        case 'f':
          writing_ = false;
          return machine_.WriteDone(event == 'd');
        case 'e':
          return machine_.End(absl::OkStatus());
        case 'g':
          return machine_.CallerGone();
        case 'l':
          now_ += kLimit;
          return machine_.Look(now_, kLimit);
        case 'a':
          aborting_ = false;
          return machine_.AbortReturned();
        case 'h':
          machine_.Hold();
          ++holds_;
          return {};
        default:
          --holds_;
          return machine_.Release();
      }
    }();
    ASSERT_FALSE(act.write && ended) << path_ << ": nothing is written after the end";
    ASSERT_FALSE(act.sent && machine_.ended()) << path_;
    ASSERT_FALSE(act.abort && !writing_) << path_ << ": only an unread write is given up";
    ASSERT_FALSE(finishes_ > 0 && act != Act{}) << path_ << ": nothing after the finish";
    writing_ = writing_ || act.write;
    aborting_ = aborting_ || act.abort;
    gones_ += act.gone ? 1 : 0;
    finishes_ += act.finish ? 1 : 0;
  }

  void CheckNow() const {
    ASSERT_LE(finishes_, 1) << path_;
    ASSERT_LE(gones_, 1) << path_;
    const bool owes = writing_ || aborting_ || holds_ > 0;
    ASSERT_EQ(finishes_ == 1, machine_.ended() && !owes) << path_;
  }

  StreamMachine machine_;
  absl::Duration now_ = absl::ZeroDuration();
  bool writing_ = false;
  bool aborting_ = false;
  int holds_ = 0;
  int gones_ = 0;
  int finishes_ = 0;
  std::string path_;
};

int AllOrders::explored = 0;

TEST(StreamMachine, FinishesOnceInEveryOrderOfEvents) {
  AllOrders().Explore(7);
  EXPECT_GT(AllOrders::explored, 50'000);
}

}  // namespace
}  // namespace mindforge
