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

TEST(Scale, AboveWhatThereIsLeavesTheJobRunning) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job", 1, 1);
  world.Obey("w1");
  ASSERT_EQ(world.job(job).state, JobState::kRunning);
  world.Do(ScaleJob{"job", 2, 4, {"s", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_EQ(world.job(job).reason,
            "trains on 1 device; scaled to 2 to 4 workers, goes on with what it has until then: "
            "needs 2 devices with the numerics 'cpu-a' that it is pinned to since its first start, "
            "only 1 is registered on live workers of one build: start more workers, or lower "
            "workers.min");
  // When they are there it takes them, without a cool-down.
  world.AddWorker("w2");
  EXPECT_EQ(world.job(job).state, JobState::kResizing) << world.job(job).reason;
}

TEST(Scale, IsCarriedOutAtOnceThoughTheCoordinatorDied) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job", 1, 1);
  world.Obey("w1");
  world.Do(ScaleJob{"job", 1, 2, {"s", "d"}});
  world.RestartCoordinator();
  world.Call("w1");
  world.AddWorker("w2");
  EXPECT_EQ(world.job(job).state, JobState::kResizing) << world.job(job).reason;
  world.RestartCoordinator();
  EXPECT_FALSE(world.job(job).scale_asked) << "it is being done";
}

TEST(Scale, ActsAtOnceWhereDevicesAreFree) {
  SchedulerWorld world;
  world.AddWorker("w1", 4);
  const JobId job = world.Submit("job", 1, 1);
  world.Obey("w1");
  ASSERT_EQ(world.job(job).state, JobState::kRunning);
  world.Do(ScaleJob{"job", 1, 4, {"s", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  EXPECT_EQ(world.job(job).reason,
            "grows from 1 to 4 devices, scaled to 1 to 4 workers: a step's 4 microbatches then "
            "take 1 rounds instead of 4");
}

TEST(Scale, SaysWhyItDoesNotAct) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 1, 1);
  world.Submit("other");
  world.RunAll();
  world.Do(ScaleJob{"job", 1, 2, {"held", "d"}});
  EXPECT_EQ(world.job(job).reason,
            "trains on 1 device; scaled to 1 to 2 workers, goes on with what it has until then: a "
            "shorter step needs 2 devices, 1 free (worker w2 holds job other)");
  world.Do(ScaleJob{"job", 1, 1, {"back", "d"}});
  EXPECT_EQ(world.job(job).reason, "trains on 1 device");

  world.AddWorker("w3", 2);
  const JobId three = world.Submit("three", 1, 2, 3);
  world.RunAll();
  ASSERT_EQ(world.job(three).members.size(), 2u);
  world.Do(ScaleJob{"three", 2, 2, {"same", "d"}});
  EXPECT_EQ(world.job(three).reason, "trains on 2 devices");
}

TEST(Scale, SaysThatMoreWorkersWouldOnlyWait) {
  SchedulerWorld world;
  world.AddWorker("w1", 3);
  const JobId job = world.Submit("job", 1, 2, 4);
  world.RunAll();
  ASSERT_EQ(world.job(job).members.size(), 2u);
  world.Do(ScaleJob{"job", 1, 3, {"s", "d"}});
  EXPECT_EQ(world.job(job).reason,
            "trains on 2 devices; scaled to 1 to 3 workers, which changes nothing: its 4 "
            "microbatches take 2 rounds on up to 3 as well");
}

TEST(Scale, OutsideRunningItIsSaidWhenItCounts) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job", 1, 1);
  world.Do(ScaleJob{"job", 1, 2, {"starting", "d"}});
  EXPECT_EQ(world.job(job).reason,
            "starts on 1 device; scaled to 1 to 2 workers, which it comes to when it trains");
  world.Obey("w1");
  world.Do(PauseJob{"job", {"p", "d"}});
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  ASSERT_EQ(world.job(job).state, JobState::kPaused);
  world.Do(ScaleJob{"job", 1, 3, {"paused", "d"}});
  EXPECT_THAT(world.job(job).reason, HasSubstr("which counts once it is resumed"));
}

TEST(Grow, TwoJobsDoNotStopForTheSameDevice) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId first = world.Submit("first", 1, 1);
  const JobId second = world.Submit("second", 1, 1);
  world.RunAll();
  for (const char* name : {"first", "second"}) {
    world.Do(ScaleJob{name, 1, 2, {std::string("scale ") + name, "d"}});
  }
  for (const JobId& id : {first, second}) world.state.jobs.at(id).scale_asked = false;
  world.AdvanceWith(absl::Minutes(2), {"w1", "w2"});
  world.AddWorker("w3");
  EXPECT_NE(world.job(first).state == JobState::kResizing,
            world.job(second).state == JobState::kResizing);
}

}  // namespace
}  // namespace mindforge::sched
