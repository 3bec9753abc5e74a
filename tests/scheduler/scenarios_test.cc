// Stories of jobs: placed, lost, resized, paused, finished. Literal events in, decisions out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/scheduler/desired.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Scheduler, RunsAJobToItsEnd) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("tang", 1, 2);
  EXPECT_EQ(world.job(job).state, JobState::kStarting);
  world.RunAll();
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_EQ(world.job(job).members.size(), 2u);
  world.Progressed("w1", job, 1);
  const Outcome outcome = world.Checkpointed("w1", job, 100, /*final=*/true);
  EXPECT_EQ(world.job(job).state, JobState::kSucceeded);
  // The success is in the same transaction as the last checkpoint.
  ASSERT_EQ(outcome.changes.checkpoints.size(), 1u);
  ASSERT_EQ(outcome.changes.jobs.size(), 1u);
  EXPECT_EQ(outcome.changes.jobs[0].state, JobState::kSucceeded);
  EXPECT_THAT(world.Trace(job), ElementsAre("QUEUED", "STARTING", "RUNNING", "SUCCEEDED"));
  // Its trainers may exit by themselves; then the devices are free.
  EXPECT_FALSE(world.state.holders.empty());
  world.EndTrainer("w1", Clean(), Phase::kFinished);
  world.EndTrainer("w2", Clean(), Phase::kFinished);
  EXPECT_TRUE(world.state.holders.empty());
}

TEST(Scheduler, QueuesWithTheReasonAndPlacesWhenADeviceComesFree) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId first = world.Submit("first");
  const JobId second = world.Submit("second");
  EXPECT_EQ(world.job(second).state, JobState::kQueued);
  EXPECT_EQ(world.job(second).reason, "needs 1 device, 0 free (worker w1 holds job first)");
  world.RunAll();
  world.Do(CancelJob{"first", {"c", "d"}});
  EXPECT_EQ(world.job(first).state, JobState::kCancelling);
  EXPECT_EQ(world.job(second).state, JobState::kQueued);
  world.Obey("w1");
  EXPECT_EQ(world.job(first).state, JobState::kCancelled);
  EXPECT_EQ(world.job(second).state, JobState::kStarting);
}

TEST(Scheduler, GoesByPriorityThenByOrderOfSubmission) {
  SchedulerWorld world;
  JobWish wish;
  wish.name = "low";
  world.SubmitWish(wish);
  wish.name = "high";
  wish.priority = 5;
  world.SubmitWish(wish);
  world.AddWorker("w1");
  EXPECT_EQ(world.job(JobId("high-id")).state, JobState::kStarting);
  EXPECT_EQ(world.job(JobId("low-id")).state, JobState::kQueued);
}

TEST(Scheduler, KeepsDevicesForAGangThatIsAhead) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId running = world.Submit("running");
  const JobId gang = world.Submit("gang", 2, 2);
  const JobId small = world.Submit("small");
  EXPECT_EQ(world.job(running).state, JobState::kStarting);
  EXPECT_EQ(world.job(gang).reason, "needs 2 devices, 1 free (worker w1 holds job running)");
  EXPECT_EQ(world.job(small).state, JobState::kQueued);
  EXPECT_THAT(world.job(small).reason, HasSubstr("is kept for job gang"));
  // A gang that cannot run on what there is holds up nobody.
  world.Do(CancelJob{"gang", {"c", "d"}});
  world.Submit("huge", 4, 4);
  EXPECT_EQ(world.job(small).state, JobState::kStarting);
}

TEST(Scheduler, GathersWorkersBeforeTheFirstPlacement) {
  SchedulerWorld world;
  world.settings.gather_window = absl::Seconds(2);
  world.state = LoadState({}, world.settings, world.now);
  world.AddWorker("w1");
  const JobId job = world.Submit("job", 1, 2);
  EXPECT_EQ(world.job(job).state, JobState::kQueued);
  EXPECT_THAT(world.job(job).reason, HasSubstr("waits up to 2s for more devices"));
  world.Advance(absl::Seconds(2) - absl::Nanoseconds(1));
  EXPECT_EQ(world.job(job).state, JobState::kQueued);
  world.AddWorker("w2");
  EXPECT_EQ(world.job(job).members.size(), 2u);

  const JobId late = world.Submit("late", 1, 4);
  world.AddWorker("w3");
  EXPECT_EQ(world.job(late).state, JobState::kQueued);
  world.AdvanceWith(absl::Seconds(2), {"w1", "w2", "w3"});
  EXPECT_EQ(world.job(late).members.size(), 1u) << world.job(late).reason;
}

TEST(Scheduler, AKilledTrainerMakesANewGenerationThatDoesNotCount) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 1, 2);
  world.RunAll();
  world.Checkpointed("w1", job, 10);
  world.EndTrainer("w2", Killed());
  EXPECT_EQ(world.job(job).state, JobState::kResizing);
  EXPECT_EQ(world.job(job).generation, Generation(2));
  EXPECT_EQ(world.job(job).failures, 0);
  EXPECT_EQ(world.job(job).reason,
            "rank 1 on worker w2: was killed by signal 9 (Killed); placed on 2 cpu devices, goes "
            "on from the checkpoint of step 10");
  world.RunAll();
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_EQ(world.job(job).world_sizes.back().from_step, Step(10));
}

TEST(Scheduler, AnAgentRestartedIsALossAndASilentOneIsAfterItsLease) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 1, 2);
  world.RunAll();
  world.agent("w2").incarnation = "two";
  world.agent("w2").trainers.clear();
  world.Call("w2");
  EXPECT_EQ(world.job(job).generation, Generation(2));
  EXPECT_THAT(world.job(job).reason, HasSubstr("its agent was restarted"));
  world.RunAll();
  ASSERT_EQ(world.job(job).state, JobState::kRunning);

  world.AdvanceWith(absl::Seconds(9), {"w1"});
  EXPECT_EQ(world.job(job).generation, Generation(2));
  world.AdvanceWith(absl::Seconds(2), {"w1"});
  EXPECT_EQ(world.job(job).generation, Generation(3));
  EXPECT_EQ(world.job(job).members.size(), 1u);
  EXPECT_EQ(world.state.workers.at(WorkerId("w2-id")).state(), WorkerState::kLost);
}

TEST(Scheduler, ASilentWorkerWhosePeersGetAheadIsNotLost) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 2, 2);
  world.RunAll();
  for (int64_t step = 1; step <= 40; ++step) {
    world.Advance(absl::Seconds(1));
    world.Progressed("w1", job, step);
  }
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_EQ(world.job(job).generation, Generation(1));
  // With the progress ends the patience.
  world.AdvanceWith(absl::Seconds(11), {"w1"});
  EXPECT_EQ(world.job(job).state, JobState::kQueued) << world.job(job).reason;
  EXPECT_THAT(world.job(job).reason, HasSubstr("only 1 is registered on live workers"));
}

TEST(Scheduler, WaitsForAJobWhoseMembersAreAllSilent) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("spare");
  const JobId job = world.Submit("job");
  world.Obey("spare");
  world.Obey("w1");
  ASSERT_EQ(world.job(job).state, JobState::kRunning);
  const std::string holder = world.job(job).members[0].worker.value();
  const std::string other = holder == "w1-id" ? "spare" : "w1";
  world.AdvanceWith(absl::Seconds(59), {other});
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_THAT(world.job(job).reason, HasSubstr("no word from any of its members"));
  world.AdvanceWith(absl::Seconds(2), {other});
  EXPECT_EQ(world.job(job).generation, Generation(2));
  EXPECT_EQ(world.job(job).members[0].worker.value(), other + "-id");
}

TEST(Scheduler, AUsersErrorFailsTheJobAtOnce) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  world.Obey("w1", Phase::kWarmingUp);
  TrainerExit exit = Failed(FailureKind::kUser, "the data cannot be used");
  exit.problems.push_back({"data.path", "line 2 is no JSON"});
  world.EndTrainer("w1", exit);
  EXPECT_EQ(world.job(job).state, JobState::kFailed);
  EXPECT_THAT(world.job(job).reason, HasSubstr("data.path: line 2 is no JSON"));
  EXPECT_EQ(world.job(job).generation, Generation(1));
}

TEST(Scheduler, BacksOffWhenStartsFailAgainAndAgain) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  for (int start = 1; start <= 3; ++start) {
    world.Obey("w1");
    world.EndTrainer("w1", Failed(FailureKind::kWorker, "not mounted"));
  }
  EXPECT_EQ(world.job(job).state, JobState::kQueued);
  EXPECT_EQ(world.job(job).failures, 0);
  EXPECT_THAT(world.job(job).reason, HasSubstr("waits 1s after 3 starts without a step"));
  world.Obey("w1");
  EXPECT_EQ(world.job(job).state, JobState::kQueued);
  world.Advance(absl::Seconds(1));
  EXPECT_EQ(world.job(job).state, JobState::kStarting);
}

TEST(Scheduler, PausesAtACheckpointAndResumesFromIt) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  world.Obey("w1");
  world.Do(PauseJob{"job", {"p", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kPausing);
  const Worker& worker = world.state.workers.at(WorkerId("w1-id"));
  EXPECT_TRUE(DesiredFor(world.state, worker, world.now).devices[0].stop);
  world.Checkpointed("w1", job, 7);
  world.EndTrainer("w1", Clean(), Phase::kStopped);
  EXPECT_EQ(world.job(job).state, JobState::kPaused);
  EXPECT_THAT(world.job(job).reason, HasSubstr("from the checkpoint of step 7"));
  EXPECT_TRUE(world.state.holders.empty());
  world.Obey("w1");
  world.Do(ResumeJob{"job", {"r", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kStarting);
  EXPECT_EQ(ResumePoints(world.state, job).size(), 1u);
}

TEST(Scheduler, AJobPausedWhileQueuedIsNotPlaced) {
  SchedulerWorld world;
  const JobId job = world.Submit("job");
  world.Do(PauseJob{"job", {"p", "d"}});
  world.AddWorker("w1");
  EXPECT_EQ(world.job(job).state, JobState::kQueued);
  EXPECT_EQ(world.job(job).reason, "paused as asked: not placed until it is resumed");
  world.Do(ResumeJob{"job", {"r", "d"}});
  EXPECT_EQ(world.job(job).state, JobState::kStarting);
}

TEST(Scheduler, KillsMembersThatDoNotStopInTime) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  world.Obey("w1");
  world.Do(PauseJob{"job", {"p", "d"}});
  world.AdvanceWith(absl::Minutes(5) - absl::Seconds(1), {"w1"});
  EXPECT_EQ(world.job(job).state, JobState::kPausing);
  world.AdvanceWith(absl::Seconds(1), {"w1"});
  EXPECT_EQ(world.job(job).state, JobState::kPaused);
  const Worker& worker = world.state.workers.at(WorkerId("w1-id"));
  EXPECT_EQ(DesiredFor(world.state, worker, world.now).devices[0].job, nullptr);
}

TEST(Scheduler, ADrawnIdThatIsTakenIsRefused) {
  SchedulerWorld world;
  const JobId job = world.Submit("job");
  JobWish wish;
  wish.name = "other";
  const auto submit = [&](const std::string& id) {
    return world.Do(SubmitJob{JobId(id), wish, "", {"submit as " + id, "d"}}).status;
  };
  EXPECT_EQ(submit(job.value()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(submit("job").code(), absl::StatusCode::kUnavailable) << "another job's name";
  EXPECT_EQ(world.job(job).wish.name, "job");
  EXPECT_TRUE(submit("free").ok());
}

TEST(Scheduler, LeavesRunningJobsAloneAfterItsOwnRestart) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 1, 2);
  world.RunAll();
  world.Advance(absl::Seconds(5));
  world.RestartCoordinator();
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  world.Call("w1");
  world.AdvanceWith(absl::Seconds(9), {"w1"});
  world.Call("w2");
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
  EXPECT_EQ(world.job(job).generation, Generation(1));
  // And hears of what was lost meanwhile.
  world.RestartCoordinator();
  world.agent("w2").trainers.clear();
  world.Call("w1");
  world.Call("w2");
  EXPECT_EQ(world.job(job).generation, Generation(2));
  EXPECT_THAT(world.job(job).reason, HasSubstr("its trainer is gone"));
}

TEST(Scheduler, AStallOfItsOwnExpiresNobody) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  world.Obey("w1");
  world.now.mono += absl::Seconds(300);
  world.Do(Stalled{});
  world.Do(Tick{});
  EXPECT_EQ(world.state.workers.at(WorkerId("w1-id")).state(), WorkerState::kReady);
  EXPECT_EQ(world.job(job).state, JobState::kRunning);
}

TEST(Scheduler, AHeartbeatWritesNothing) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.Submit("job");
  world.Obey("w1");
  world.Advance(absl::Seconds(1));
  const Outcome outcome = world.Call("w1");
  EXPECT_TRUE(outcome.changes.empty());
  EXPECT_THAT(outcome.touched_workers, IsEmpty());
  EXPECT_THAT(outcome.log, IsEmpty());
}

TEST(Scheduler, TheSameRequestIsTheSameJob) {
  SchedulerWorld world;
  JobWish wish;
  wish.name = "job";
  const SubmitJob submit{JobId("a"), wish, "spec", {"id", "digest"}};
  EXPECT_EQ(world.Do(submit).job, JobId("a"));
  SubmitJob again = submit;
  again.id = JobId("b");
  const Outcome repeated = world.Do(again);
  EXPECT_TRUE(repeated.repeated);
  EXPECT_EQ(repeated.job, JobId("a"));
  EXPECT_TRUE(repeated.changes.empty());
  world.RestartCoordinator();
  EXPECT_EQ(world.Do(again).job, JobId("a"));
  again.request.digest = "other";
  EXPECT_EQ(world.Do(again).status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(world.state.jobs.size(), 1u);
  again.request = {"another id", "digest"};
  EXPECT_THAT(std::string(world.Do(again).status.message()), HasSubstr("'job' is taken"));
}

TEST(Scheduler, TheRendezvousReachesTheOtherRanks) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 2, 2);
  const int64_t before = world.state.workers.at(WorkerId("w2-id")).desired_version;
  world.Obey("w1", Phase::kJoining);
  EXPECT_EQ(world.job(job).rendezvous, "host-w1:1234");
  EXPECT_GT(world.state.workers.at(WorkerId("w2-id")).desired_version, before);
}

}  // namespace
}  // namespace mindforge::sched
