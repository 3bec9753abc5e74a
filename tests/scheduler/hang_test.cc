// Trainers that run and get nothing done: when that is a hang, and when nobody can know.
#include "coordinator/scheduler/hang.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/desired.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTick = absl::Nanoseconds(1);

class HangTest : public ::testing::Test {
 protected:
  const Job& job() const { return world_.job(job_); }
  // One of a build that tells what its trainers get done, which names numerics too.
  void AddWorker(const std::string& name) {
    SchedulerWorld::Agent agent;
    Device device{"cpu:0", DeviceKind::kCpu, "model", 0, 1, "cpu-a"};
    device.numerics = {{"", "cpu-a", {}}};
    agent.devices = {device};
    world_.agents[name] = agent;
    world_.Call(name);
  }
  // Rank 0 trains its first steps, each of which takes a second.
  void Begin(int workers = 1) {
    for (int i = 1; i <= workers; ++i) AddWorker(absl::StrCat("w", i));
    job_ = world_.Submit("job", workers, workers);
    world_.RunAll();
    ASSERT_EQ(job().state, JobState::kRunning);
    world_.Progressed("w1", job_, 1);
    for (int i = 1; i <= workers; ++i) Step(absl::StrCat("w", i), 1);
  }
  void Step(const std::string& worker, int64_t step) {
    world_.agent(worker).trainers.at("cpu:0").step = step;
    world_.Call(worker);
  }
  // Its agents tell the same for so long, every five seconds or less.
  void StandStill(absl::Duration time) {
    while (time > absl::ZeroDuration()) {
      const absl::Duration by = std::min(time, absl::Seconds(5));
      world_.Advance(by);
      for (const auto& [name, agent] : world_.agents) world_.Call(name);
      time -= by;
    }
  }

  SchedulerWorld world_;
  JobId job_;
};

TEST_F(HangTest, ASingleRankThatHangsIsKilledAtTheLimit) {
  Begin();
  const absl::Duration limit = HangLimit(world_.settings, job());
  ASSERT_EQ(limit, absl::Minutes(2)) << "the floor: twenty steps are less";
  StandStill(limit - kTick);
  EXPECT_EQ(job().generation, Generation(1));
  StandStill(kTick);
  EXPECT_EQ(job().generation, Generation(2));
  EXPECT_EQ(job().events.back().reason,
            "rank 0 on worker w1: it hangs: got nothing done for 2m after step 1 (the limit is "
            "2m); it is killed; placed on 1 cpu device, goes on from the beginning (it has no "
            "checkpoint)");
  // Its agent is told to run another generation there, for which it kills this one.
  const Worker& worker = world_.state.workers.at(WorkerId("w1-id"));
  const DesiredWorker desired = DesiredFor(world_.state, worker, world_.now);
  EXPECT_EQ(desired.devices[0].job->generation, Generation(2));
}

TEST_F(HangTest, ALoopOfHangsEnds) {
  Begin();
  for (int hang = 0; hang < 4 && !job().final(); ++hang) {
    StandStill(absl::Minutes(11));
    world_.RunAll();
  }
  EXPECT_EQ(job().state, JobState::kFailed) << job().reason;
}

TEST_F(HangTest, TheLimitFollowsTheJobsOwnSteps) {
  Begin();
  Job& slow = world_.state.jobs.at(job_);
  slow.progress.step_seconds = 30;
  EXPECT_EQ(HangLimit(world_.settings, slow), absl::Minutes(10));
  slow.progress.step_seconds = 3000;
  EXPECT_EQ(HangLimit(world_.settings, slow), kLongestHang);
  slow.progress.step_seconds = 1e300;
  EXPECT_EQ(HangLimit(world_.settings, slow), kLongestHang);
}

TEST_F(HangTest, WhoeverGetsOnWithAnythingDoesNotHang) {
  Begin();
  for (int minute = 0; minute < 10; ++minute) {
    StandStill(absl::Minutes(1));
    ++world_.agent("w1").trainers.at("cpu:0").activity;  // a microbatch of a very long step
    world_.Call("w1");
  }
  EXPECT_EQ(job().generation, Generation(1));
}

TEST_F(HangTest, ATrainerThatNeverTellsWhatItGetsDoneIsNotJudgedByIt) {
  world_.AddWorker("w1");
  job_ = world_.Submit("job");
  world_.RunAll();
  ASSERT_EQ(job().state, JobState::kRunning);
  world_.Progressed("w1", job_, 1);
  Step("w1", 1);
  StandStill(absl::Hours(2));  // it validates, or waits for a checkpoint
  EXPECT_EQ(job().generation, Generation(1)) << job().reason;
  // Once it has told, its silence says something.
  ++world_.agent("w1").trainers.at("cpu:0").activity;
  world_.Call("w1");
  StandStill(absl::Minutes(2));
  EXPECT_EQ(job().generation, Generation(2));
}

TEST_F(HangTest, TheFirstThatStoodStillIsNamed) {
  Begin(2);
  world_.Advance(absl::Seconds(5));
  Step("w2", 2);
  world_.Call("w1");
  StandStill(absl::Minutes(2) - absl::Seconds(5));
  EXPECT_EQ(job().generation, Generation(1)) << "one of them may get on yet";
  StandStill(absl::Seconds(5));
  EXPECT_EQ(job().generation, Generation(2));
  EXPECT_THAT(job().events.back().reason, HasSubstr("rank 0 on worker w1: it hangs"));
  EXPECT_THAT(job().events.back().reason, HasSubstr("nor did any other rank"));
}

TEST_F(HangTest, NothingIsConcludedFromWhatIsNotHeard) {
  world_.settings.unreachable_timeout = absl::Hours(10);
  world_.state = LoadState({}, world_.settings, world_.now);
  Begin();
  world_.Advance(absl::Hours(1));  // the network was away, and the agent with it
  world_.Call("w1");
  EXPECT_EQ(job().generation, Generation(1)) << job().reason;
  // What the agent tells from then on counts; of the hour, no more than a lease.
  StandStill(absl::Minutes(2) - world_.settings.worker_lease - absl::Seconds(5));
  EXPECT_EQ(job().generation, Generation(1)) << job().reason;
  StandStill(absl::Seconds(5));
  EXPECT_EQ(job().generation, Generation(2));
}

TEST_F(HangTest, TheCoordinatorsRestartBeginsAnew) {
  Begin();
  StandStill(absl::Minutes(1));
  world_.RestartCoordinator();
  world_.Call("w1");
  StandStill(absl::Minutes(2) - kTick);
  EXPECT_EQ(job().generation, Generation(1));
}

TEST_F(HangTest, AStartThatNeverEndsIsGivenUpAtTheLimit) {
  AddWorker("w1");
  job_ = world_.Submit("job");
  world_.Obey("w1", Phase::kWarmingUp);
  StandStill(world_.settings.start_timeout - kTick);
  EXPECT_EQ(job().generation, Generation(1));
  ASSERT_EQ(job().state, JobState::kStarting);
  StandStill(kTick);
  ASSERT_EQ(job().state, JobState::kQueued) << job().reason;
  ASSERT_GT(job().events.size(), 2u);
  EXPECT_THAT(job().events[job().events.size() - 2].reason,
              HasSubstr("it hangs: got nothing done for 10m while it started"));
  world_.RunAll();  // the agent kills it, and the device is free
  EXPECT_EQ(job().generation, Generation(2));
}

TEST_F(HangTest, AStartThatTellsOfItsProgressTakesAsLongAsItTakes) {
  AddWorker("w1");
  AddWorker("w2");
  job_ = world_.Submit("job", 2, 2);
  world_.Obey("w1", Phase::kWarmingUp);
  world_.Obey("w2", Phase::kJoining);
  for (int percent = 0; percent < 20; ++percent) {
    world_.agent("w1").trainers.at("cpu:0").detail = absl::StrCat("tokenizing ", percent, "%");
    StandStill(world_.settings.start_timeout - absl::Seconds(10));
  }
  EXPECT_EQ(job().generation, Generation(1)) << job().reason;
  EXPECT_EQ(job().state, JobState::kStarting);
}

TEST_F(HangTest, AnAgentThatNeverStartsItsTrainerIsGivenUpToo) {
  AddWorker("w1");
  job_ = world_.Submit("job");
  StandStill(world_.settings.start_timeout + absl::Seconds(5));
  EXPECT_EQ(job().generation, Generation(2)) << job().reason;
}

TEST_F(HangTest, MembersThatWereToldToStopHaveTheirOwnLimit) {
  Begin();
  world_.Do(PauseJob{"job", {"p", "d"}});
  StandStill(absl::Minutes(3));
  EXPECT_EQ(job().state, JobState::kPausing);
}

}  // namespace
}  // namespace mindforge::sched
