// Checkpoints and deployments: what commits, what goes, what is served.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/scheduler/deployments.h"
#include "coordinator/scheduler/desired.h"
#include "tests/scheduler/scheduler_world.h"

namespace mindforge::sched {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    world_.AddWorker("w1");
    world_.AddWorker("w2");
    job_ = world_.Submit("job", 1, 2);
    world_.RunAll();
  }

  std::vector<std::string> Deletions(const std::string& worker) {
    return DesiredFor(world_.state, world_.state.workers.at(WorkerId(worker + "-id")), world_.now)
        .delete_paths;
  }
  Outcome Deploy(const std::string& name, std::optional<int64_t> step = std::nullopt,
                 const std::string& load_options = "") {
    Deployment deployment;
    deployment.load_options = load_options;
    deployment.name = name;
    deployment.job = JobId("job");
    deployment.step = step;
    return world_.Do(DeployModel{deployment, {"deploy " + name + load_options, "d"}});
  }
  void Infer(const std::string& name, const std::string& deployment = "",
             const std::string& version = "") {
    InferenceNode node;
    node.id = WorkerId(name);
    node.name = name;
    node.deployment = deployment;
    node.weights_version = version;
    node.ready = !version.empty();
    world_.Do(InferenceReport{node});
  }

  SchedulerWorld world_;
  JobId job_;
};

TEST_F(CheckpointTest, CommitsOnlyForTheNewestGeneration) {
  world_.EndTrainer("w2", Killed());
  world_.RunAll();
  ASSERT_EQ(world_.job(job_).generation, Generation(2));
  world_.Progressed("w1", job_, 10);
  const Outcome refused = world_.Checkpointed("w1", job_, 10, false, /*generation=*/1);
  EXPECT_THAT(refused.changes.checkpoints, IsEmpty());
  EXPECT_THAT(refused.log,
              ElementsAre(HasSubstr("it is of generation 1, the newest is 2 and is at step 10")));
  EXPECT_THAT(Deletions("w1"), ElementsAre("/checkpoints/job-id/step-10.g1"));
  EXPECT_EQ(world_.state.workers.at(WorkerId("w1-id")).acks.checkpoints, 2);
  // Gone is gone.
  WorkerReport report;
  report.deleted_paths = {"/checkpoints/job-id/step-10.g1"};
  world_.Call("w1", report);
  EXPECT_THAT(Deletions("w1"), IsEmpty());
}

TEST_F(CheckpointTest, ACommittedOneReportedAgainIsNotDeleted) {
  world_.Checkpointed("w1", job_, 10);
  world_.EndTrainer("w2", Killed());
  world_.RunAll();
  world_.Checkpointed("w1", job_, 10, false, /*generation=*/1);
  EXPECT_THAT(Deletions("w1"), IsEmpty());
  EXPECT_EQ(NewestCheckpoint(world_.state, job_)->step, 10);
}

TEST_F(CheckpointTest, SpooledItemsAreTakenOnce) {
  WorkerReport report;
  report.logs.push_back({1, job_, {0, "line"}});
  EXPECT_EQ(world_.Call("w1", report).changes.logs.size(), 1u);
  EXPECT_EQ(world_.Call("w1", report).changes.logs.size(), 0u);
  world_.RestartCoordinator();
  EXPECT_EQ(world_.Call("w1", report).changes.logs.size(), 0u);
}

TEST_F(CheckpointTest, ProgressOfAnOldGenerationCountsUpToWhereItsSuccessorWentOn) {
  world_.Checkpointed("w1", job_, 10);
  world_.EndTrainer("w2", Killed());
  world_.RunAll();
  const auto offer = [&](int64_t step) {
    Progress record;
    record.step = step;
    record.generation = Generation(1);
    WorkerReport report;
    report.progress.push_back({++world_.agent("w1").spooled, job_, record});
    return world_.Call("w1", report).changes.progress.size();
  };
  EXPECT_EQ(offer(10), 1u);
  EXPECT_EQ(offer(11), 0u);
}

TEST_F(CheckpointTest, RetentionOrdersDeletionFromTheWriter) {
  for (const int64_t step : {10, 20, 30, 40}) world_.Checkpointed("w1", job_, step);
  EXPECT_THAT(Deletions("w1"), ElementsAre("/checkpoints/job-id/step-10.g1"));
  EXPECT_THAT(Deletions("w2"), IsEmpty());
  EXPECT_EQ(ResumePoints(world_.state, job_).size(), 3u);
  // Its writer is lost: another looks after the folder.
  world_.AdvanceWith(absl::Seconds(11), {"w2"});
  EXPECT_THAT(Deletions("w2"), ElementsAre("/checkpoints/job-id/step-10.g1"));
}

TEST_F(CheckpointTest, ACorruptOneIsNeverUsedAgain) {
  world_.Checkpointed("w1", job_, 10);
  world_.Checkpointed("w1", job_, 20);
  WorkerReport report;
  report.corruptions.push_back({1, job_, {20, Generation(1), "bad hash"}});
  world_.Call("w1", report);
  EXPECT_EQ(FindCheckpoint(world_.state, job_, 20)->state, CheckpointState::kCorrupt);
  const auto points = ResumePoints(world_.state, job_);
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0]->step, 10);
}

TEST_F(CheckpointTest, VerificationGoesToAWorkerAndBack) {
  world_.Checkpointed("w1", job_, 10);
  world_.Do(ChangeCheckpoint{"job", 10, CheckpointAction::kVerify, {"v", "d"}});
  EXPECT_EQ(FindCheckpoint(world_.state, job_, 10)->verification, Verification::kPending);
  const Worker& worker = world_.state.workers.at(WorkerId("w1-id"));
  EXPECT_THAT(DesiredFor(world_.state, worker, world_.now).verify_paths,
              ElementsAre("/checkpoints/job-id/step-10.g1"));
  WorkerReport report;
  report.verify_results.push_back({"/checkpoints/job-id/step-10.g1", false, "short file"});
  world_.Call("w1", report);
  EXPECT_EQ(FindCheckpoint(world_.state, job_, 10)->verification, Verification::kCorrupt);
  EXPECT_EQ(FindCheckpoint(world_.state, job_, 10)->state, CheckpointState::kCorrupt);
  EXPECT_THAT(DesiredFor(world_.state, worker, world_.now).verify_paths, IsEmpty());
}

TEST_F(CheckpointTest, OneThatAWorkerCannotReadStaysCommitted) {
  world_.Checkpointed("w1", job_, 10);
  world_.Do(ChangeCheckpoint{"job", 10, CheckpointAction::kVerify, {"v", "d"}});
  WorkerReport report;
  report.verify_results.push_back({.path = "/checkpoints/job-id/step-10.g1",
                                   .detail = "cannot open it: Permission denied",
                                   .unreadable = true});
  world_.Call("w1", report);
  const Checkpoint& checkpoint = *FindCheckpoint(world_.state, job_, 10);
  EXPECT_EQ(checkpoint.verification, Verification::kUnreadable);
  EXPECT_EQ(checkpoint.verification_detail, "worker w1: cannot open it: Permission denied");
  EXPECT_EQ(checkpoint.state, CheckpointState::kCommitted);
  EXPECT_EQ(ResumePoints(world_.state, job_).size(), 1u);
  const Worker& worker = world_.state.workers.at(WorkerId("w1-id"));
  EXPECT_THAT(DesiredFor(world_.state, worker, world_.now).verify_paths, IsEmpty());
}

TEST_F(CheckpointTest, WhatAJobWouldGoOnFromIsNotDeleted) {
  world_.Checkpointed("w1", job_, 10);
  const Outcome refused =
      world_.Do(ChangeCheckpoint{"job", 10, CheckpointAction::kDelete, {"x", "d"}});
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      world_.Do(ChangeCheckpoint{"job", 11, CheckpointAction::kPin, {"y", "d"}}).status.code(),
      absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, ADeploymentFollowsTheNewestCheckpoint) {
  Infer("i1");
  Deploy("chat");
  EXPECT_EQ(ModelFor(world_.state, WorkerId("i1")), std::nullopt);
  const auto describe = [&] { return Describe(world_.state, world_.state.deployments["chat"]); };
  EXPECT_EQ(describe().reason, "job job (RUNNING) has no checkpoint yet");
  world_.Checkpointed("w1", job_, 10);
  EXPECT_EQ(ModelFor(world_.state, WorkerId("i1"))->weights.version, "step-10.g1-digest10");
  EXPECT_EQ(describe().state, DeploymentState::kLoading);
  Infer("i1", "chat", "step-10.g1-digest10");
  EXPECT_EQ(describe().state, DeploymentState::kServing);
  const int64_t version = world_.state.inference.at(WorkerId("i1")).desired_version;
  world_.Checkpointed("w1", job_, 20);
  EXPECT_GT(world_.state.inference.at(WorkerId("i1")).desired_version, version);
  EXPECT_EQ(describe().state, DeploymentState::kServing);
}

TEST_F(CheckpointTest, AServedFolderOutlivesRetention) {
  Infer("i1");
  Deploy("chat");
  world_.Advance(absl::Seconds(20));  // past the time in which inference workers come back
  world_.Call("w1");
  world_.Call("w2");
  world_.Checkpointed("w1", job_, 10);
  Infer("i1", "chat", "step-10.g1-digest10");
  for (const int64_t step : {20, 30, 40, 50}) world_.Checkpointed("w1", job_, step);
  EXPECT_THAT(Deletions("w1"), Not(testing::Contains(HasSubstr("step-10."))));
  EXPECT_THAT(Deletions("w1"), ElementsAre(HasSubstr("step-20.")));
  Infer("i1", "chat", "step-50.g1-digest50");
  EXPECT_THAT(Deletions("w1"), ElementsAre(HasSubstr("step-10."), HasSubstr("step-20.")));
}

TEST_F(CheckpointTest, AdaptedWeightsAreAnotherVersionOfTheSameFolder) {
  const auto order = [&] { return *ModelFor(world_.state, WorkerId("i1")); };
  Infer("i1");
  Deploy("chat");
  world_.Advance(absl::Seconds(20));  // past the time in which inference workers come back
  world_.Call("w1");
  world_.Call("w2");
  world_.Checkpointed("w1", job_, 10);
  const DesiredWeights plain = order().weights;
  const int64_t told = world_.state.inference.at(WorkerId("i1")).desired_version;
  Deploy("chat", std::nullopt, "an adapter");
  EXPECT_EQ(order().deployment->load_options, "an adapter");
  EXPECT_EQ(order().weights.path, plain.path);
  const std::string adapted = order().weights.version;
  EXPECT_THAT(adapted, testing::StartsWith(plain.version + "+"));
  EXPECT_GT(world_.state.inference.at(WorkerId("i1")).desired_version, told);
  world_.Advance(absl::Seconds(1));
  Deploy("chat", std::nullopt, "an adapter that was trained on");
  EXPECT_NE(order().weights.version, adapted);

  // The folder that they are made of outlives retention as long as they are served.
  Infer("i1", "chat", order().weights.version);
  for (const int64_t step : {20, 30, 40, 50}) world_.Checkpointed("w1", job_, step);
  EXPECT_THAT(Deletions("w1"), ElementsAre(HasSubstr("step-20.")));
  Infer("i1", "chat", order().weights.version);
  EXPECT_THAT(Deletions("w1"), ElementsAre(HasSubstr("step-10."), HasSubstr("step-20.")));
}

TEST_F(CheckpointTest, AFailedLoadDegradesAndSaysWhy) {
  Infer("i1");
  Deploy("chat");
  world_.Checkpointed("w1", job_, 10);
  InferenceNode node;
  node.id = WorkerId("i1");
  node.name = "i1";
  node.load_error = "no tokenizer.json";
  node.load_error_version = "step-10.g1-digest10";
  world_.Do(InferenceReport{node});
  const DeploymentStatus status = Describe(world_.state, world_.state.deployments["chat"]);
  EXPECT_EQ(status.state, DeploymentState::kDegraded);
  EXPECT_EQ(status.reason, "the weights could not be loaded: worker i1: no tokenizer.json");
}

TEST_F(CheckpointTest, AWorkerThatServesADeploymentKeepsItsSeat) {
  world_.Checkpointed("w1", job_, 10);
  Deploy("a");
  Deploy("b");
  // After a restart an idle worker comes first, then the one that serves `a` already.
  Infer("idle");
  EXPECT_EQ(world_.state.inference.at(WorkerId("idle")).assigned, "a");
  Infer("old", "a", "step-10.g1-digest10");
  EXPECT_EQ(world_.state.inference.at(WorkerId("old")).assigned, "a");
  EXPECT_EQ(world_.state.inference.at(WorkerId("idle")).assigned, "b");
  world_.Do(InferenceGone{WorkerId("idle")});
  EXPECT_THAT(Describe(world_.state, world_.state.deployments["b"]).reason,
              HasSubstr("no inference worker is free"));
}

TEST_F(CheckpointTest, AJobThatIsServedIsNotDeleted) {
  world_.Checkpointed("w1", job_, 100, /*final=*/true);
  Deploy("chat");
  EXPECT_EQ(world_.Do(DeleteJob{"job", {"x", "d"}}).status.code(),
            absl::StatusCode::kFailedPrecondition);
  world_.Do(DeleteDeployment{"chat", {"y", "d"}});
  const Outcome deleted = world_.Do(DeleteJob{"job", {"z", "d"}});
  EXPECT_TRUE(deleted.status.ok()) << deleted.status;
  EXPECT_THAT(deleted.changes.deleted_jobs, ElementsAre(job_));
  EXPECT_EQ(FindJob(world_.state, "job"), nullptr);
}

}  // namespace
}  // namespace mindforge::sched
