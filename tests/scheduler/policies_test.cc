// The stateless policies: state machine, placement, retention, retry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/job_state.h"
#include "coordinator/scheduler/placement.h"
#include "coordinator/scheduler/retention.h"
#include "coordinator/scheduler/retry.h"
#include "coordinator/scheduler/state.h"

namespace mindforge::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(JobStates, FollowEachOtherOnlyAlongTheArrows) {
  using enum JobState;
  const std::vector<std::pair<JobState, JobState>> arrows = {
      {kQueued, kStarting},     {kStarting, kRunning}, {kStarting, kQueued},
      {kRunning, kResizing},    {kRunning, kPausing},  {kRunning, kSucceeded},
      {kResizing, kRunning},    {kResizing, kQueued},  {kResizing, kPausing},
      {kPausing, kPaused},      {kPausing, kQueued},   {kPaused, kQueued},
      {kCancelling, kCancelled}};
  for (int from = 1; from <= 10; ++from) {
    for (int to = 1; to <= 10; ++to) {
      const auto f = static_cast<JobState>(from), t = static_cast<JobState>(to);
      bool legal = std::find(arrows.begin(), arrows.end(), std::pair(f, t)) != arrows.end();
      if (!IsFinal(f)) legal |= t == kFailed || (t == kCancelling && f != kCancelling);
      EXPECT_EQ(MayFollow(f, t), legal) << StateName(f) << " to " << StateName(t);
    }
  }
}

TEST(JobStatesDeathTest, AnIllegalTransitionIsAProgrammersError) {
  JobState state = JobState::kSucceeded;
  EXPECT_DEATH(Transition(&state, JobState::kRunning), "SUCCEEDED to RUNNING");
}

std::vector<Candidate> Devices(int count, const std::string& worker, const std::string& holder = "",
                               const std::string& signature = "a",
                               DeviceKind kind = DeviceKind::kCpu) {
  std::vector<Candidate> devices;
  for (int i = 0; i < count; ++i) {
    devices.push_back(
        {{WorkerId(worker), absl::StrCat("cpu:", i)}, worker, kind, signature, -1, holder});
  }
  return devices;
}

std::vector<Candidate> operator+(std::vector<Candidate> a, const std::vector<Candidate>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Placement, TakesTheSmallestWorldSizeWithTheSameRounds) {
  const PlacementRequest request{.min = 1, .max = 8, .accumulation_steps = 8};
  // 8 microbatches: 1, 2, 3, 4 and 8 ranks differ in rounds; 5, 6 and 7 do as 4.
  const int expected[] = {0, 1, 2, 3, 4, 4, 4, 4, 8, 8};
  for (int available = 0; available <= 9; ++available) {
    EXPECT_EQ(SmallestWorldSize(request, available), expected[available]) << available;
  }
}

TEST(Placement, NeverGoesBelowMinToSaveRanks) {
  EXPECT_EQ(SmallestWorldSize({.min = 3, .max = 3, .accumulation_steps = 4}, 3), 3);
}

TEST(Placement, SaysWhyItTookFewerThanItCould) {
  const Placement placement =
      Place({.min = 1, .max = 4, .accumulation_steps = 4}, Devices(3, "w1"));
  EXPECT_EQ(placement.ranks.size(), 2u);
  EXPECT_EQ(placement.reason,
            "placed on 2 cpu devices of 3 that it could have: 4 microbatches take 2 rounds either "
            "way");
}

TEST(Placement, NamesWhoHoldsWhatIsMissing) {
  const Placement placement =
      Place({.min = 2, .max = 2, .accumulation_steps = 4, .kind = DeviceKind::kCpu},
            Devices(1, "w1") + Devices(1, "w2", "worker w2 holds job x"));
  EXPECT_THAT(placement.ranks, IsEmpty());
  EXPECT_TRUE(placement.could_fit);
  EXPECT_EQ(placement.reason, "needs 2 cpu devices, 1 free (worker w2 holds job x)");
}

TEST(Placement, SaysHowToGetWhatIsNotThere) {
  EXPECT_EQ(Place({.min = 1, .max = 1}, {}).reason,
            "needs 1 device, no worker is registered: start mindforge-worker");
  const Placement few = Place({.min = 3, .max = 3, .accumulation_steps = 4}, Devices(2, "w1"));
  EXPECT_FALSE(few.could_fit);
  EXPECT_THAT(few.reason, HasSubstr("only 2 are registered on live workers"));
}

TEST(Placement, NeverMixesSignatures) {
  const auto devices = Devices(1, "w1", "", "avx2") + Devices(1, "w2", "", "avx512");
  EXPECT_THAT(Place({.min = 2, .max = 2, .accumulation_steps = 2}, devices).ranks, IsEmpty());
  const Placement fixed =
      Place({.min = 1, .max = 2, .accumulation_steps = 2, .signature = "avx512"}, devices);
  ASSERT_EQ(fixed.ranks.size(), 1u);
  EXPECT_EQ(fixed.ranks[0].worker_name, "w2");
}

TEST(Placement, PrefersGpusWhereAnyDeviceWillDo) {
  const auto devices = Devices(4, "w1") + Devices(1, "w2", "", "h100", DeviceKind::kCuda);
  const Placement placement = Place({.min = 1, .max = 4, .accumulation_steps = 4}, devices);
  ASSERT_EQ(placement.ranks.size(), 1u);
  EXPECT_EQ(placement.ranks[0].kind, DeviceKind::kCuda);
}

TEST(Placement, KeepsOwnRanksAndSpansFewHosts) {
  auto devices = Devices(1, "w1") + Devices(3, "w2");
  devices[0].own_rank = 0;
  const Placement placement = Place({.min = 3, .max = 3, .accumulation_steps = 3}, devices);
  ASSERT_EQ(placement.ranks.size(), 3u);
  EXPECT_EQ(placement.ranks[0].worker_name, "w1");
  EXPECT_EQ(placement.ranks[1].worker_name, "w2");
  const Placement one_host =
      Place({.min = 2, .max = 2, .accumulation_steps = 2}, Devices(1, "w1") + Devices(3, "w2"));
  EXPECT_EQ(one_host.ranks[0].worker_name, "w2");
  EXPECT_EQ(one_host.ranks[1].worker_name, "w2");
}

std::map<int64_t, Checkpoint> Checkpoints(std::initializer_list<int64_t> steps) {
  std::map<int64_t, Checkpoint> all;
  for (const int64_t step : steps) {
    all[step].step = step;
    all[step].manifest_digest = absl::StrCat(step);
  }
  return all;
}

TEST(Retention, KeepsTheNewestAndEveryKth) {
  const auto all = Checkpoints({10, 20, 30, 40, 50});
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 2}, all, {}), ElementsAre(10, 20, 30));
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 2, .keep_every = 20}, all, {}), ElementsAre(10, 30));
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 5}, all, {}), IsEmpty());
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 0}, all, {}), ElementsAre(10, 20, 30, 40));
}

TEST(Retention, LeavesPinnedServedAndVerifyingOnes) {
  auto all = Checkpoints({10, 20, 30, 40});
  all[10].pinned = true;
  all[30].verification = Verification::kPending;
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 1}, all, {WeightsVersion(all[20])}), IsEmpty());
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 1}, all, {}), ElementsAre(20));
}

TEST(Retention, CountsOnlyGoodOnesAsKept) {
  auto all = Checkpoints({10, 20, 30});
  all[30].state = CheckpointState::kCorrupt;
  EXPECT_THAT(ExpiredCheckpoints({.keep_last = 2}, all, {}), IsEmpty());
}

TEST(Retry, JudgesByWhoseFaultItIs) {
  const auto verdict = [](const TrainerExit& exit, Phase phase = Phase::kTraining) {
    return Judge(exit, phase).verdict;
  };
  EXPECT_EQ(verdict({true, "exit 0", {}, "", {}}, Phase::kFinished), Verdict::kDone);
  EXPECT_EQ(verdict({true, "exit 0", {}, "", {}}, Phase::kTraining), Verdict::kCounted);
  EXPECT_EQ(verdict({false, "", FailureKind::kUser, "", {}}), Verdict::kFailJob);
  EXPECT_EQ(verdict({false, "", FailureKind::kOutOfMemory, "", {}}), Verdict::kFailJob);
  EXPECT_EQ(verdict({false, "", FailureKind::kPeer, "", {}}), Verdict::kIdleCounted);
  EXPECT_EQ(verdict({false, "", FailureKind::kInternal, "", {}}), Verdict::kCounted);
  EXPECT_EQ(verdict({false, "", FailureKind::kWorker, "", {}}), Verdict::kNotCounted);
  EXPECT_EQ(verdict({false, "killed by signal 9", {}, "", {}}), Verdict::kIdleCounted);
  EXPECT_EQ(verdict({false, "killed by signal 90", {}, "", {}}), Verdict::kCounted);
  EXPECT_EQ(verdict({false, "killed by signal 11", {}, "", {}}), Verdict::kCounted);
}

TEST(Retry, NamesTheFieldsOfAUsersError) {
  const TrainerExit exit{false,
                         "exit status 1",
                         FailureKind::kUser,
                         "the data cannot be read",
                         {{"data.path", "line 2 is no JSON"}}};
  EXPECT_EQ(Judge(exit, Phase::kWarmingUp).reason,
            "the data cannot be read; data.path: line 2 is no JSON");
}

TEST(Retry, SaysEachThingOnce) {
  TrainerExit exit{false,
                   "exit status 1",
                   FailureKind::kUser,
                   "data.path: line 2 is no JSON",
                   {{"data.path", "line 2 is no JSON"}}};
  EXPECT_EQ(Judge(exit, Phase::kWarmingUp).reason, "data.path: line 2 is no JSON");
  exit.message = "line 2 is no JSON";
  EXPECT_EQ(Judge(exit, Phase::kWarmingUp).reason, "data.path: line 2 is no JSON");
  exit.problems.push_back({"model.vocab_size", "is too small"});
  EXPECT_EQ(Judge(exit, Phase::kWarmingUp).reason,
            "data.path: line 2 is no JSON; model.vocab_size: is too small");
}

TEST(Retry, PausesFromASecondToAMinute) {
  EXPECT_EQ(RetryPause(0), absl::ZeroDuration());
  EXPECT_EQ(RetryPause(1), absl::Seconds(1));
  EXPECT_EQ(RetryPause(2), absl::Seconds(2));
  EXPECT_EQ(RetryPause(6), absl::Seconds(32));
  EXPECT_EQ(RetryPause(7), absl::Seconds(60));
  EXPECT_EQ(RetryPause(1000), absl::Seconds(60));
}

TEST(Retry, BacksOffOnlyAfterRepeatedStartsInVain) {
  EXPECT_EQ(Backoff(1), absl::ZeroDuration());
  EXPECT_EQ(Backoff(2), absl::ZeroDuration());
  EXPECT_EQ(Backoff(3), absl::Seconds(1));
  EXPECT_EQ(Backoff(5), absl::Seconds(4));
  EXPECT_EQ(Backoff(100), absl::Seconds(30));
}

}  // namespace
}  // namespace mindforge::sched
