// What agents tell: in which order calls are handled, what a failure means, what counts once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/context.h"
#include "coordinator/scheduler/desired.h"
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

class AdoptionTest : public ::testing::Test {
 protected:
  AdoptionTest() {
    world_.AddWorker("w1");
    world_.AddWorker("w2");
    job_ = world_.Submit("job", 2, 2);
    world_.RunAll();
    world_.Checkpointed("w1", job_, 10);
    for (int64_t step = 1; step <= 12; ++step) world_.Progressed("w1", job_, step);
  }
  // w1's agent comes back as another process with what it found and what it had spooled.
  Outcome Return(int64_t found_step, int64_t spooled_to) {
    SchedulerWorld::Agent& agent = world_.agent("w1");
    agent.incarnation += " again";
    agent.trainers.clear();
    agent.spool += " again";
    agent.spooled = 0;
    WorkerReport report;
    for (int64_t step = 13; step <= spooled_to; ++step) {
      Progress record;
      record.step = step;
      record.generation = Generation(1);
      record.tokens = 10;
      report.progress.push_back({++agent.spooled, job_, record});
    }
    CheckpointWritten written;
    written.step = found_step;
    written.generation = Generation(1);
    written.path = absl::StrCat("/checkpoints/job-id/step-", found_step, ".g1");
    report.checkpoints.push_back({1, job_, written});
    return world_.Call("w1", report);
  }
  std::set<int64_t> StepsOf(const Outcome& outcome) {
    std::set<int64_t> steps;
    for (const auto& [job, record] : outcome.changes.progress) steps.insert(record.step);
    return steps;
  }
  const Job& job() const { return world_.job(job_); }

  SchedulerWorld world_;
  JobId job_;
};

TEST_F(AdoptionTest, AnUnrecordedOneOfTheNewestGenerationIsWhatTheJobGoesOnFrom) {
  world_.RestartCoordinator();
  world_.Call("w2");
  Return(20, 20);
  EXPECT_EQ(job().generation, Generation(2));
  EXPECT_EQ(job().world_sizes.back().from_step, Step(20)) << job().reason;
  EXPECT_EQ(ResumePoints(world_.state, job_).front()->step, 20);
}

TEST_F(AdoptionTest, AnOlderGenerationsIsTakenWhileNothingNewerGotSoFar) {
  world_.EndTrainer("w2", Killed());
  ASSERT_EQ(job().generation, Generation(2));
  const Outcome outcome = Return(20, 22);
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->step, 20);
  EXPECT_THAT(StepsOf(outcome), ::testing::ElementsAre(13, 14, 15, 16, 17, 18, 19, 20))
      << "what the checkpoint holds counts, what lies behind it is done again";
  EXPECT_EQ(job().tokens, 80);
}

TEST_F(AdoptionTest, AnOlderGenerationsIsRefusedOnceANewerGotSoFar) {
  world_.EndTrainer("w2", Killed());
  world_.RunAll();
  world_.Progressed("w1", job_, 20);
  const Outcome outcome = Return(20, 22);
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->step, 10);
  ASSERT_FALSE(outcome.log.empty());
  EXPECT_THAT(outcome.log, ::testing::Contains(
                               HasSubstr("refused the checkpoint of step 20 in "
                                         "/checkpoints/job-id/step-20.g1: it is of generation 1")));
  EXPECT_EQ(world_.state.delete_orders.size(), 1u);
  EXPECT_TRUE(StepsOf(outcome).empty());
}

TEST_F(AdoptionTest, TheSuccessorsOwnOfThatStepTakesItsPlace) {
  world_.EndTrainer("w2", Killed());
  Return(20, 20);
  world_.RunAll();
  world_.Checkpointed("w1", job_, 20);
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->generation, job().generation);
  EXPECT_EQ(world_.state.delete_orders.count("/checkpoints/job-id/step-20.g1"), 1u);
}

TEST_F(AdoptionTest, ASuccessorsOwnStaysPinnedAndItsServedPredecessorStays) {
  world_.EndTrainer("w2", Killed());
  Return(20, 20);
  world_.Do(ChangeCheckpoint{"job", 20, CheckpointAction::kPin, {"pin", "d"}});
  Deployment deployment;
  deployment.name = "chat";
  deployment.job = JobId("job");
  world_.Do(DeployModel{deployment, {"deploy", "d"}});
  InferenceNode node;
  node.id = WorkerId("i1");
  world_.Do(InferenceReport{node});
  const auto serve = [&] {
    const std::string version = WeightsVersion(*FindCheckpoint(world_.state, job_, 20));
    node.deployment = "chat";
    node.weights_version = version;
    world_.Do(InferenceReport{node});
  };
  serve();
  world_.RunAll();
  world_.Checkpointed("w1", job_, 20);
  EXPECT_TRUE(FindCheckpoint(world_.state, job_, 20)->pinned);
  world_.AdvanceWith(2 * world_.settings.worker_lease, {"w1", "w2"});
  const auto deletions = [&] {
    return DesiredFor(world_.state, world_.state.workers.at(WorkerId("w1-id")), world_.now)
        .delete_paths;
  };
  EXPECT_THAT(deletions(), ::testing::IsEmpty()) << "generation 1's is served";
  serve();
  EXPECT_THAT(deletions(), ::testing::ElementsAre("/checkpoints/job-id/step-20.g1"));
}

TEST_F(AdoptionTest, OneWhoseDeletionIsOrderedIsNotCommitted) {
  world_.EndTrainer("w2", Killed());
  world_.RunAll();
  world_.Progressed("w1", job_, 20);
  Return(20, 12);
  ASSERT_EQ(world_.state.delete_orders.size(), 1u);
  // Nothing is left of what went further, and the folder is found again before it is gone.
  world_.state.jobs.at(job_).progress = {};
  Return(20, 12);
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->step, 10);
  EXPECT_EQ(world_.state.delete_orders.size(), 1u);
}

class EndedJobTest : public AdoptionTest {
 protected:
  // Rank 1 reports a user's error before rank 0's agent delivers what it queued.
  EndedJobTest() {
    world_.EndTrainer("w2", Failed(FailureKind::kUser, "bad data"));
    EXPECT_EQ(job().state, JobState::kFailed);
  }
};

TEST_F(EndedJobTest, ItsLastGenerationsCheckpointsAreCommittedWhenTheyComeLate) {
  world_.Checkpointed("w1", job_, 20);
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->step, 20);
  EXPECT_TRUE(world_.state.delete_orders.empty());
  EXPECT_EQ(job().state, JobState::kFailed);
  world_.Checkpointed("w1", job_, 30, /*final=*/true);
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->step, 30);
  EXPECT_EQ(job().state, JobState::kFailed);
}

TEST(EndedJob, AnOlderGenerationsIsCommittedUnlessALaterOneIsThere) {
  SchedulerWorld world;
  world.AddWorker("w1");
  world.AddWorker("w2");
  const JobId job = world.Submit("job", 2, 2);
  world.RunAll();
  world.EndTrainer("w2", Killed());
  world.RunAll();
  ASSERT_EQ(world.job(job).generation, Generation(2));
  world.Checkpointed("w1", job, 10);
  world.Progressed("w1", job, 25);
  world.EndTrainer("w2", Failed(FailureKind::kUser, "bad data"));
  ASSERT_EQ(world.job(job).state, JobState::kFailed);
  world.Checkpointed("w1", job, 20, false, /*generation=*/1);
  EXPECT_EQ(NewestCheckpoint(world.state, job)->step, 20);
  EXPECT_TRUE(world.state.delete_orders.empty());
  world.Checkpointed("w1", job, 15, false, /*generation=*/1);
  EXPECT_EQ(FindCheckpoint(world.state, job, 15), nullptr);
}

TEST_F(AdoptionTest, ACorruptFolderIsNoResultThoughItsTrainerReportsItAsTheLast) {
  CheckpointWritten found;
  found.step = 30;
  found.generation = Generation(1);
  found.path = "/checkpoints/job-id/step-30.g1";
  WorkerReport report;
  report.checkpoints.push_back({1, job_, found});
  report.corruptions.push_back({1, job_, {10, Generation(1), "bad hash"}});
  world_.Call("w2", report);
  report = {};
  report.corruptions.push_back({2, job_, {30, Generation(1), "bad hash"}});
  world_.Call("w2", report);
  ASSERT_EQ(NewestCheckpoint(world_.state, job_), nullptr);
  world_.Checkpointed("w1", job_, 30, /*final=*/true);
  EXPECT_EQ(job().state, JobState::kRunning) << job().reason;
}

TEST_F(AdoptionTest, TheTrainersReportOfTheLastStepEndsAJobWhoseFolderWasFoundBefore) {
  CheckpointWritten found;
  found.step = 30;
  found.generation = Generation(1);
  found.path = "/checkpoints/job-id/step-30.g1";
  WorkerReport report;
  report.checkpoints.push_back({1, job_, found});
  world_.Call("w2", report);
  EXPECT_EQ(job().state, JobState::kRunning);
  world_.Checkpointed("w1", job_, 30, /*final=*/true);
  EXPECT_EQ(job().state, JobState::kSucceeded);
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
