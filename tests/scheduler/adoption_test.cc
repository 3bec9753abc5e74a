// Checkpoints that are brought late: by an agent that was away, of an older generation, of a job
// that has ended.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/desired.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::HasSubstr;

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

}  // namespace
}  // namespace mindforge::sched
