// Jobs that start again: what counts, when a loop ends, and whose turn it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/retry.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::HasSubstr;

class RestartLoopTest : public ::testing::Test {
 protected:
  RestartLoopTest() {
    world_.AddWorker("w1");
    job_ = world_.Submit("job");
  }
  const Job& job() const { return world_.job(job_); }
  // Trains these steps and is killed, as by the kernel for want of memory; the pause passes.
  void TrainAndDie(int64_t from, int64_t to) {
    world_.RunAll();
    ASSERT_EQ(job().state, JobState::kRunning) << job().reason;
    for (int64_t step = from; step <= to; ++step) world_.Progressed("w1", job_, step);
    world_.EndTrainer("w1", Killed());
    if (job().final()) return;
    world_.AdvanceWith(kLongestRetryPause, {"w1"});
    world_.RunAll();
  }

  SchedulerWorld world_;
  JobId job_;
};

TEST_F(RestartLoopTest, AJobKilledBetweenCheckpointsEnds) {
  world_.RunAll();
  world_.Checkpointed("w1", job_, 10);
  TrainAndDie(11, 15);
  EXPECT_EQ(job().failures, 0) << "it had got on";
  TrainAndDie(11, 15);
  EXPECT_EQ(job().failures, 1) << "the same steps again";
  EXPECT_THAT(job().events.back().reason, HasSubstr("trains on 1 device"));
  TrainAndDie(11, 14);
  EXPECT_EQ(job().failures, 2);
  TrainAndDie(11, 15);
  EXPECT_EQ(job().state, JobState::kFailed);
  EXPECT_EQ(job().reason,
            "failed 3 times (max_failures is 3); the last: rank 0 on worker w1: was killed by "
            "signal 9 (Killed), with no step beyond 15 since a trainer ended before");
}

TEST_F(RestartLoopTest, AJobKilledBeforeItsFirstStepEnds) {
  for (int start = 0; start < 4; ++start) TrainAndDie(1, 0);
  EXPECT_EQ(job().state, JobState::kFailed) << job().reason;
}

TEST_F(RestartLoopTest, OneThatGetsOnIsKilledAsOftenAsOneLikes) {
  for (int64_t step = 1; step <= 20; ++step) TrainAndDie(step, step);
  EXPECT_EQ(job().failures, 0);
  EXPECT_EQ(job().state, JobState::kRunning);
}

TEST_F(RestartLoopTest, WhatAnAgentEndsThatIsBeingStoppedIsALostWorker) {
  for (int start = 0; start < 5; ++start) {
    world_.Obey("w1", Phase::kWarmingUp);
    ASSERT_EQ(job().state, JobState::kStarting) << job().reason;
    world_.agent("w1").stopping = true;
    world_.EndTrainer("w1", Killed());
    world_.agent("w1").stopping = false;
    world_.Obey("w1", Phase::kWarmingUp);
    world_.AdvanceWith(absl::Minutes(1), {"w1"});
  }
  EXPECT_EQ(job().failures, 0);
}

TEST_F(RestartLoopTest, TheCountOutlivesTheCoordinator) {
  TrainAndDie(1, 5);
  world_.RestartCoordinator();
  world_.Call("w1");
  TrainAndDie(1, 5);
  EXPECT_EQ(job().failures, 1);
}

TEST_F(RestartLoopTest, ARedoneStepDoesNotResetTheBackOff) {
  world_.RunAll();
  world_.Progressed("w1", job_, 1);
  for (int loss = 1; loss <= 4; ++loss) {
    world_.agent("w1").incarnation = absl::StrCat("incarnation ", loss);
    world_.agent("w1").trainers.clear();
    world_.Call("w1");
    world_.AdvanceWith(absl::Minutes(1), {"w1"});
    world_.RunAll();
    world_.Progressed("w1", job_, 1);  // from the beginning: there is no checkpoint
  }
  EXPECT_EQ(job().restarts_without_step, 4);
  world_.Progressed("w1", job_, 2);
  EXPECT_EQ(job().restarts_without_step, 0);
  EXPECT_EQ(job().failures, 0) << "a worker that is lost is nobody's failure";
}

TEST_F(RestartLoopTest, AListOfWorldSizesDoesNotGrowWithEachTry) {
  world_.RunAll();
  world_.Checkpointed("w1", job_, 10);
  for (int64_t step = 11; step <= 40; ++step) TrainAndDie(step, step);
  EXPECT_EQ(job().generation, Generation(31));
  ASSERT_EQ(job().world_sizes.size(), 2u);
  EXPECT_EQ(job().world_sizes[0].generation, Generation(1));
  EXPECT_EQ(job().world_sizes[1].generation, Generation(31));
  EXPECT_EQ(job().world_sizes[1].from_step, Step(10));
}

TEST(RestartQueue, AJobThatStartsAgainTakesNoDeviceThatOneAheadWaitsFor) {
  SchedulerWorld world;
  for (const char* name : {"w1", "w2"}) world.AddWorker(name);
  const JobId job = world.Submit("job", 1, 2);
  world.RunAll();
  ASSERT_EQ(world.job(job).members.size(), 2u);
  JobWish wish;
  wish.name = "gang";
  wish.priority = 5;
  wish.min_workers = wish.max_workers = 3;
  const JobId gang = world.SubmitWish(wish).job;
  // Three would do for the gang if all were free: what comes free is kept for it.
  world.AddWorker("w3");
  ASSERT_EQ(world.job(gang).state, JobState::kQueued);
  world.agents.erase("w2");
  world.AdvanceWith(absl::Seconds(11), {"w1", "w3"});
  ASSERT_EQ(world.job(job).generation, Generation(2));
  ASSERT_EQ(world.job(job).members.size(), 2u) << "w2 is gone: the gang cannot be placed at all";
  // With w2 back it can: the next restart keeps to what the job holds.
  world.AddWorker("w2");
  world.RunAll();
  world.AddWorker("w4");
  ASSERT_EQ(world.job(gang).state, JobState::kQueued) << world.job(gang).reason;
  const std::vector<MemberPlace> before = world.job(job).members;
  world.EndTrainer("w1", Killed());
  EXPECT_EQ(world.job(job).members, before);
  world.Do(ScaleJob{"job", 1, 4, {"s", "d"}});
  world.RunAll();
  EXPECT_EQ(world.job(job).members.size(), 2u);
  EXPECT_THAT(world.job(job).reason, HasSubstr("is kept for job gang, which is ahead"));
}

}  // namespace
}  // namespace mindforge::sched
