#include "common/parked_call.h"

#include <gtest/gtest.h>

#include <string>

namespace mindforge {
namespace {

using Act = ParkedCall::Act;

TEST(ParkedCall, IsParkedWhenThereIsNothingToTell) {
  ParkedCall call(/*known_version=*/7, /*at_once=*/false);
  EXPECT_EQ(call.Reported(7), Act::kPark);
  EXPECT_EQ(call.Seen(7), Act::kNothing);
  EXPECT_EQ(call.Seen(8), Act::kAnswer);
  EXPECT_EQ(call.ParkOver(), Act::kNothing) << "it is answered once";
}

TEST(ParkedCall, IsAnsweredAtOnceWhereItAsksForThatOrHasNews) {
  EXPECT_EQ(ParkedCall(7, true).Reported(7), Act::kAnswer);
  EXPECT_EQ(ParkedCall(6, false).Reported(7), Act::kAnswer);
}

TEST(ParkedCall, WhatComesBeforeItsReportWaitsForIt) {
  ParkedCall call(7, false);
  EXPECT_EQ(call.Stopping(), Act::kNothing);
  EXPECT_EQ(call.Reported(7), Act::kAnswer);
}

TEST(ParkedCall, AReportThatComesAfterTheCallerLeftIsNobodys) {
  ParkedCall call(7, false);
  EXPECT_EQ(call.CallerGone(), Act::kRefuse);
  EXPECT_EQ(call.Reported(8), Act::kNothing);
  EXPECT_EQ(call.Seen(9), Act::kNothing);
}

// Every order of events up to a length.
class AllOrders {
 public:
  explicit AllOrders(bool at_once) : call_(7, at_once), hurried_(at_once) {}

  void Explore(int left) {
    CheckNow();
    if (left == 0) return;
    for (const char event : {'r', 'R', 's', 'S', 'n', 'p', 'x', 'f', 'g'}) {
      if ((event == 'r' || event == 'R') && reported_) continue;  // a report is taken in once
      AllOrders next(*this);
      next.path_ += event;
      next.Apply(event);
      next.Explore(left - 1);
      ++explored;
    }
  }

  static int explored;

 private:
  void Apply(char event) {
    const Act act = [&] {
      switch (event) {
        case 'r':
          return call_.Reported(7);
        case 'R':
          return call_.Reported(8);
        case 's':
          return call_.Seen(7);
        case 'S':
          return call_.Seen(8);
        case 'n':
          return call_.NewerCall();
        case 'p':
          return call_.ParkOver();
        case 'x':
          return call_.Stopping();
        case 'f':
          return call_.Refused();
        default:
          return call_.CallerGone();
      }
    }();
    const bool report = event == 'r' || event == 'R';
    reported_ = reported_ || report;
    ended_ = ended_ || event == 'f' || event == 'g';
    hurried_ = hurried_ || event == 'n' || event == 'p' || event == 'x' || event == 'R' ||
               (event == 'S' && reported_);
    ASSERT_TRUE(act != Act::kPark || report) << path_ << ": only its report parks a call";
    ASSERT_TRUE(act != Act::kAnswer || reported_) << path_ << ": no answer before the report";
    ASSERT_TRUE(act != Act::kRefuse || event == 'f' || event == 'g') << path_;
    ends_ += act == Act::kAnswer || act == Act::kRefuse ? 1 : 0;
  }

  void CheckNow() const {
    ASSERT_LE(ends_, 1) << path_ << ": it is answered once";
    ASSERT_EQ(call_.over(), ends_ == 1) << path_;
    // A call that somebody wants over is over, and no other.
    ASSERT_EQ(call_.over(), ended_ || (reported_ && hurried_)) << path_;
  }

  // Assigned by copy only: the machine's own constants stay.
  ParkedCall call_;
  bool hurried_;
  bool reported_ = false;
  bool ended_ = false;
  int ends_ = 0;
  std::string path_;
};

int AllOrders::explored = 0;

TEST(ParkedCall, IsAnsweredOnceInEveryOrderOfEvents) {
  AllOrders(false).Explore(6);
  AllOrders(true).Explore(6);
  EXPECT_GT(AllOrders::explored, 200'000);
}

}  // namespace
}  // namespace mindforge
