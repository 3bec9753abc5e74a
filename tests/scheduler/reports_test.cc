// What agents tell: in which order calls are handled, what a failure means, what counts once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/context.h"
#include "coordinator/scheduler/retry.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::HasSubstr;

class ReportsTest : public ::testing::Test {
 protected:
  ReportsTest() {
    world_.AddWorker("w1");
    job_ = world_.Submit("job");
    world_.RunAll();
  }
  const Job& job() const { return world_.job(job_); }

  SchedulerWorld world_;
  JobId job_;
};

TEST_F(ReportsTest, AnOlderCallHandledLastChangesNothing) {
  // A call that is made before the trainer starts and handled after the one that tells of it.
  WorkerReport late;
  late.call_number = ++world_.agent("w1").calls;
  world_.Call("w1");
  ASSERT_EQ(job().state, JobState::kRunning);
  const auto trainers = std::exchange(world_.agent("w1").trainers, {});
  const Outcome outcome = world_.Call("w1", late);
  EXPECT_TRUE(outcome.outdated);
  EXPECT_TRUE(outcome.status.ok());
  EXPECT_EQ(job().state, JobState::kRunning) << job().reason;
  EXPECT_EQ(job().generation, Generation(1));
  world_.agent("w1").trainers = trainers;
  EXPECT_FALSE(world_.Call("w1").outdated);
}

TEST_F(ReportsTest, AnOlderCallNeitherDrainsNorEndsATrainer) {
  WorkerReport late;
  late.call_number = ++world_.agent("w1").calls;
  world_.Call("w1");
  world_.agent("w1").stopping = true;
  world_.agent("w1").trainers.at("cpu:0").exit = Killed();
  world_.Call("w1", late);
  EXPECT_EQ(world_.state.workers.at(WorkerId("w1-id")).state(), WorkerState::kReady);
  EXPECT_EQ(job().state, JobState::kRunning);
}

TEST_F(ReportsTest, AnOlderCallsRecordsCountOnce) {
  WorkerReport late;
  late.call_number = ++world_.agent("w1").calls;
  late.logs.push_back({1, job_, {0, "line"}});
  WorkerReport newer;
  newer.logs = late.logs;
  newer.logs.push_back({2, job_, {0, "another"}});
  newer.call_number = ++world_.agent("w1").calls;
  // The newer carries both; handled last, the older has nothing new.
  EXPECT_EQ(world_.Call("w1", newer).changes.logs.size(), 2u);
  EXPECT_EQ(world_.Call("w1", late).changes.logs.size(), 0u);
  EXPECT_EQ(world_.state.workers.at(WorkerId("w1-id")).acks.logs, 2);
  // One that a later call did not repeat is taken all the same.
  WorkerReport alone;
  alone.call_number = late.call_number;
  alone.logs.push_back({3, job_, {0, "third"}});
  EXPECT_EQ(world_.Call("w1", alone).changes.logs.size(), 1u);
}

TEST_F(ReportsTest, WhatAKilledAgentLeftIsTakenOnceFromItsSuccessor) {
  WorkerReport report;
  report.logs.push_back({1, job_, {0, "heard"}});
  world_.Call("w1", report);
  report.logs.push_back({2, job_, {0, "not heard"}});
  world_.agent("w1").incarnation = "two";
  world_.agent("w1").trainers.clear();
  const auto logs = world_.Call("w1", report).changes.logs;
  ASSERT_EQ(logs.size(), 1u);
  EXPECT_EQ(logs[0].second.second.bytes, "not heard");
  // Another spool has numbers of its own.
  world_.agent("w1").spool = "another";
  EXPECT_EQ(world_.Call("w1", report).changes.logs.size(), 2u);
}

TEST_F(ReportsTest, ANewIncarnationNumbersItsCallsAnew) {
  world_.agent("w1").incarnation = "two";
  world_.agent("w1").calls = 0;
  world_.agent("w1").trainers.clear();
  EXPECT_FALSE(world_.Call("w1").outdated);
  EXPECT_THAT(job().reason, HasSubstr("its agent was restarted"));
}

TEST_F(ReportsTest, AnAgentWhoseSuccessorHasRegisteredIsRefused) {
  const SchedulerWorld::Agent before = world_.agent("w1");
  world_.agent("w1").incarnation = "two";
  world_.agent("w1").trainers.clear();
  world_.Obey("w1");
  ASSERT_EQ(job().generation, Generation(2));
  world_.agent("w1") = before;
  const Outcome outcome = world_.Call("w1");
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(world_.state.workers.at(WorkerId("w1-id")).incarnation, "two");
  EXPECT_EQ(job().generation, Generation(2));
}

TEST_F(ReportsTest, ARefusedTwinDoesNotKeepALostWorkerAlive) {
  const SchedulerWorld::Agent twin = world_.agent("w1");
  world_.agent("w1").incarnation = "two";
  world_.agent("w1").trainers.clear();
  world_.Call("w1");
  // The successor dies; its twin, with a copy of the data folder, calls on.
  world_.agent("w1") = twin;
  for (int second = 0; second < 10; ++second) {
    world_.Advance(absl::Seconds(1));
    EXPECT_EQ(world_.Call("w1").status.code(), absl::StatusCode::kAborted);
  }
  EXPECT_EQ(world_.state.workers.at(WorkerId("w1-id")).state(), WorkerState::kLost);
}

TEST(Workers, LostOnesHoldNoPlaceInTheLimit) {
  SchedulerWorld world;
  for (size_t i = 0; i < kMaxWorkers; ++i) {
    Worker worker;
    worker.id = WorkerId(absl::StrCat("old-", i));
    worker.lost = true;
    worker.drained = i == 0;
    worker.lease_from = world.now.mono - absl::Hours(1) + absl::Seconds(i);
    world.state.workers[worker.id] = worker;
  }
  world.AddWorker("new");
  EXPECT_EQ(world.state.workers.count(WorkerId("new-id")), 1u);
  EXPECT_EQ(world.state.workers.size(), kMaxWorkers);
  EXPECT_EQ(world.state.workers.count(WorkerId("old-0")), 1u) << "a person drained it";
  EXPECT_EQ(world.state.workers.count(WorkerId("old-1")), 0u) << "the longest lost";
  for (auto& [id, worker] : world.state.workers) worker.lost = false;
  world.agents["late"] = {};
  EXPECT_EQ(world.Call("late").status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ReportsTest, ACheckpointThatCannotBeWrittenShowsInTheJob) {
  DeviceStatus& status = world_.agent("w1").trainers.at("cpu:0");
  const int64_t events = job().event_count;
  for (int failures = 1; failures <= 9; ++failures) {
    status.checkpoint_failures = failures;
    status.checkpoint_error = absl::StrCat("step ", 10 * failures, ": No space left on device");
    world_.Call("w1");
  }
  EXPECT_EQ(job().checkpoint_failures, 9);
  EXPECT_EQ(job().checkpoint_error, "step 90: No space left on device");
  EXPECT_EQ(job().reason,
            "trains on 1 device; its checkpoints cannot be written, first known: step 10: No space "
            "left on device");
  EXPECT_EQ(job().event_count, events + 1) << "one event, or they would push out all others";
  status.checkpoint_failures = 0;
  status.checkpoint_error.clear();
  world_.Call("w1");
  EXPECT_EQ(job().reason, "trains on 1 device");
}

TEST_F(ReportsTest, ASuccessSaysThatItsStepsChangedNothing) {
  Progress record;
  record.step = record.total_steps = 60;
  record.generation = Generation(1);
  record.skipped_steps = 59;
  WorkerReport report;
  report.progress.push_back({++world_.agent("w1").spooled, job_, record});
  world_.Call("w1", report);
  world_.Checkpointed("w1", job_, 60, /*final=*/true);
  EXPECT_EQ(job().state, JobState::kSucceeded);
  EXPECT_THAT(job().reason,
              HasSubstr("all steps are done, but 59 of 60 steps changed nothing, as the gradients "
                        "were not finite; the result is"));
}

TEST_F(ReportsTest, AFailureThatCountsIsTriedAgainAfterAPause) {
  world_.EndTrainer("w1", Failed(FailureKind::kInternal, "disk full"));
  EXPECT_EQ(job().state, JobState::kQueued);
  EXPECT_EQ(job().reason,
            "failed 1 of 3 times: rank 0 on worker w1: disk full; trying again in 1s");
  world_.Obey("w1");
  EXPECT_TRUE(job().members.empty()) << "its device is free meanwhile";
  world_.Advance(absl::Milliseconds(999));
  EXPECT_EQ(job().state, JobState::kQueued);
  world_.Advance(absl::Milliseconds(1));
  EXPECT_EQ(job().state, JobState::kStarting);

  world_.Obey("w1");
  world_.Obey("w1");
  world_.EndTrainer("w1", Failed(FailureKind::kInternal, "disk full"));
  EXPECT_THAT(job().reason, HasSubstr("failed 2 of 3 times: "));
  EXPECT_THAT(job().reason, HasSubstr("trying again in 2s"));
}

TEST(Failures, SpendTheBudgetAndThenFailTheJob) {
  SchedulerWorld world;
  world.AddWorker("w1");
  const JobId job = world.Submit("job");
  for (int failure = 1; failure <= 3; ++failure) {
    world.Obey("w1");
    ASSERT_EQ(world.job(job).state, JobState::kRunning) << failure;
    world.EndTrainer("w1", Failed(FailureKind::kInternal, "no luck"));
    EXPECT_EQ(world.job(job).failures, failure);
    world.Advance(kLongestRetryPause);
  }
  EXPECT_EQ(world.job(job).state, JobState::kFailed);
  EXPECT_THAT(world.job(job).reason, HasSubstr("failed 3 times (max_failures is 3)"));
  EXPECT_THAT(world.job(job).reason, HasSubstr("no luck"));
}

TEST_F(ReportsTest, TheCoordinatorsRestartNeitherForgetsNorProlongsThePause) {
  world_.EndTrainer("w1", Failed(FailureKind::kInternal, "disk full"));
  world_.Advance(absl::Milliseconds(400));
  world_.RestartCoordinator();
  world_.Obey("w1");
  EXPECT_EQ(job().state, JobState::kQueued);
  world_.Advance(absl::Milliseconds(599));
  EXPECT_EQ(job().state, JobState::kQueued);
  world_.Advance(absl::Milliseconds(1));
  EXPECT_EQ(job().state, JobState::kStarting);
}

TEST_F(ReportsTest, AFailureWhileItStopsIsTriedAgainAfterAPauseToo) {
  world_.Do(ScaleJob{"job", 1, 2, {"scale", "d"}});
  world_.AddWorker("w2");
  world_.Progressed("w1", job_, 1);
  world_.AdvanceWith(world_.settings.grow_cooldown, {"w1", "w2"});
  ASSERT_EQ(job().state, JobState::kResizing) << job().reason;
  world_.EndTrainer("w1", Failed(FailureKind::kInternal, "disk full"));
  EXPECT_EQ(job().state, JobState::kQueued);
  EXPECT_THAT(job().reason, HasSubstr("disk full; trying again in 1s"));
}

TEST_F(ReportsTest, TokensAreTheJobsAndCountEachStepOnce) {
  const auto step = [&](int64_t number, int64_t generation) {
    Progress record;
    record.step = number;
    record.generation = Generation(generation);
    record.tokens = 100;
    WorkerReport report;
    report.progress.push_back({++world_.agent("w1").spooled, job_, record});
    world_.Call("w1", report);
  };
  step(1, 1);
  step(2, 1);
  EXPECT_EQ(job().tokens, 200);
  world_.EndTrainer("w1", Killed());
  world_.Obey("w1");
  ASSERT_EQ(job().generation, Generation(2));
  step(1, 2);  // from the beginning: there is no checkpoint
  step(2, 2);
  EXPECT_EQ(job().tokens, 200);
  step(5, 2);
  EXPECT_EQ(job().tokens, 300);
  step(4, 2);  // late
  step(4, 2);
  EXPECT_EQ(job().tokens, 400);
  EXPECT_EQ(job().max_step, 5);
}

TEST_F(ReportsTest, LateStepsCountAfterARestartOfTheCoordinatorToo) {
  const auto step = [&](int64_t number) {
    Progress record;
    record.step = number;
    record.generation = Generation(1);
    record.tokens = 100;
    WorkerReport report;
    report.progress.push_back({++world_.agent("w1").spooled, job_, record});
    world_.Call("w1", report);
  };
  step(1);
  step(4);
  world_.RestartCoordinator();
  EXPECT_EQ(job().tokens, 200);
  step(2);
  step(2);
  step(1);
  EXPECT_EQ(job().tokens, 300);
  world_.RestartCoordinator();
  EXPECT_EQ(job().tokens, 300);
}

TEST_F(ReportsTest, AnExplanationThatIsTooLongIsTheSameTheNextTime) {
  const std::string reason = "failed: " + std::string(5000, 'x');
  world_.EndTrainer("w1", Failed(FailureKind::kUser, reason));
  const size_t events = job().events.size();
  const Now now = world_.now;
  Outcome out;
  Context c{world_.state, now, out, {}, {}, {}};
  Job& changed = world_.state.jobs.at(job_);
  Explain(c, changed, reason);
  Explain(c, changed, reason);
  EXPECT_EQ(job().events.size(), events + 1);
}

TEST_F(ReportsTest, AWorkerForgottenInTheStepInWhichItComesBackIsThereAfterARestart) {
  world_.AddWorker("w2");
  world_.AdvanceWith(absl::Seconds(11), {"w1"});
  // The timer was late: the call itself finds that w2 is long gone.
  world_.state.settings.forget_worker_after = absl::ZeroDuration();
  world_.state.next_expiry = world_.now.mono;
  world_.Call("w2");
  world_.Do(CancelJob{"job", {"cancel", "d"}});
  world_.Obey("w1");
  world_.Submit("both", 2, 2);
  ASSERT_EQ(world_.job(JobId("both-id")).members.size(), 2u);
  world_.RestartCoordinator();
  EXPECT_EQ(world_.state.workers.size(), 2u);
}

TEST_F(ReportsTest, AMarkIsOfBoundedLength) {
  const Outcome outcome =
      world_.EndTrainer("w1", Failed(FailureKind::kInternal, std::string(3 << 20, 'x')));
  ASSERT_EQ(outcome.changes.milestones.size(), 1u);
  EXPECT_LT(outcome.changes.milestones[0].second.text.size(), 2100u);
}

TEST_F(ReportsTest, MarksWhatHappenedInTheChart) {
  const auto texts = [](const Outcome& outcome) {
    std::string all;
    for (const auto& [job, mark] : outcome.changes.milestones) {
      absl::StrAppend(&all, mark.number, "@", mark.step, " ", mark.text, "\n");
    }
    return all;
  };
  EXPECT_THAT(texts(world_.Checkpointed("w1", job_, 10)),
              HasSubstr("2@10 checkpoint of step 10 in /checkpoints/job-id/step-10.g1, loss "));
  world_.Progressed("w1", job_, 12);
  EXPECT_THAT(texts(world_.EndTrainer("w1", Killed())),
              HasSubstr("3@12 rank 0 on worker w1: was killed by signal 9"));
  world_.Do(ScaleJob{"job", 2, 2, {"scale", "d"}});
  world_.AddWorker("w2");
  world_.RunAll();
  EXPECT_EQ(job().milestone_count, 3) << "the same world size again is none";
}

}  // namespace
}  // namespace mindforge::sched
