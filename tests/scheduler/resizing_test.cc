// Jobs that change their devices: they grow, are scaled, leave a worker, keep a member.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::HasSubstr;

TEST(Scheduler, GrowsOntoAFreedDeviceAfterTheCooldown) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job", 1, 2);
  world.Obey("w1");
  world.AddWorker("w2");
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  world.AdvanceWith(absl::Seconds(59), {"w1", "w2"});
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  world.AdvanceWith(absl::Seconds(2), {"w1", "w2"});
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  EXPECT_THAT(world.job(job).reason, HasSubstr("grows from 1 to 2 devices"));
  world.Checkpointed("w1", job, 30);
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  EXPECT_EQ(world.job(job).members.size(), 2u);
  world.RunAll();
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_EQ(world.job(job).generation, Generation(2));
}

TEST(Scheduler, ScalesDownThroughACheckpoint) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 1, 2);
  world.RunAll();
  world.Do(ScaleJob{"job", 1, 1, {"s", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  world.EndTrainer("w2", Clean(), Phase::kStopped);
  EXPECT_EQ(world.job(job).members.size(), 1u);
  EXPECT_EQ(world.Do(ScaleJob{"job", 1, 9, {"t", "d"}}).status.code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Scheduler, AScaleOutsideRunningIsCarriedOutOnceItRuns) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 1, 2);
  ASSERT_EQ(world.job(job).state, JobState::kStarting);
  world.Do(ScaleJob{"job", 1, 1, {"down", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kStarting);
  world.RunAll();
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  EXPECT_EQ(world.job(job).reason,
            "scaled to 1 to 1 workers, has 2: writes a checkpoint and stops");
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  world.EndTrainer("w2", Clean(), Phase::kStopped);
  ASSERT_EQ(world.job(job).state, JobState::kResizing);
  ASSERT_EQ(world.job(job).members.size(), 1u);
  // And once more while the new generation comes up.
  world.Do(ScaleJob{"job", 2, 2, {"up", "d"}});
  world.RunAll();
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  EXPECT_EQ(world.job(job).members.size(), 2u) << world.job(job).reason;
  world.RunAll();
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
}

TEST(Scheduler, ADrainingWorkerIsLeftAtACheckpoint) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  world.Obey("w1");
  world.AddWorker("w2");
  world.Do(DrainWorker{"w1", true, {"d", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  EXPECT_THAT(world.job(job).reason, HasSubstr("leaves worker w1, which is draining"));
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  EXPECT_EQ(world.job(job).members[0].worker, WorkerId("w2-id"));
}

TEST(Scheduler, KeepsAMemberWhoseAgentHasNotCalledYetAfterItsOwnRestart) {
  SchedulerWorld world;
  for (const char* name : {"w1", "w2", "w3"}) world.AddWorker(name);
  const JobId job = world.Submit("job", 1, 3, 3);
  world.RunAll();
  ASSERT_EQ(world.job(job).members.size(), 3u);
  world.RestartCoordinator();
  world.Call("w1");
  world.EndTrainer("w2", Killed());
  EXPECT_EQ(world.job(job).generation, Generation(2));
  EXPECT_EQ(world.job(job).members.size(), 3u) << world.job(job).reason;
}

}  // namespace
}  // namespace mindforge::sched
