#include "worker/infer/thread_team.h"

#include <atomic>
#include <vector>

#include "gtest/gtest.h"

namespace mindforge {
namespace {

TEST(ThreadTeam, SharesCoverEverythingOnce) {
  ThreadTeam team(3);
  for (int64_t count : {0, 1, 2, 3, 10, 100}) {
    int64_t next = 0;
    for (int64_t me = 0; me < 3; ++me) {
      const auto [begin, end] = team.Share(count, me);
      EXPECT_EQ(begin, next);
      next = end;
    }
    EXPECT_EQ(next, count);
  }
}

// Plain variables: a missing barrier is a wrong sum here and a race under ThreadSanitizer.
TEST(ThreadTeam, WhatWasWrittenBeforeAMeetingIsSeenAfterIt) {
  for (int64_t threads : {1, 2, 4}) {
    ThreadTeam team(threads);
    for (int64_t round = 0; round < 200; ++round) {
      std::vector<int64_t> values(threads), sums(threads);
      team.Run([&](int64_t me) {
        for (int64_t stage = 1; stage <= 3; ++stage) {
          values[me] = stage * (me + 1) + round;
          team.Meet();
          int64_t sum = 0;
          for (int64_t v : values) sum += v;
          sums[me] = sum;
          team.Meet();
        }
      });
      for (int64_t sum : sums) {
        ASSERT_EQ(sum, 3 * threads * (threads + 1) / 2 + round * threads);
      }
    }
  }
}

TEST(ThreadTeam, ParkedMembersWakeUp) {
  ThreadTeam team(3);
  std::atomic<int> calls = 0;
  std::atomic<int> spin = 0;
  for (int round = 0; round < 3; ++round) {
    // Long enough for the others to give up spinning.
    while (spin.fetch_add(1) % 300'000 != 0) {
    }
    team.Run([&](int64_t) { calls.fetch_add(1); });
  }
  EXPECT_EQ(calls, 9);
}

}  // namespace
}  // namespace mindforge
