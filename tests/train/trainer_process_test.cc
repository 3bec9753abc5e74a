// Real trainer processes under a fake agent: the promises that hold between ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "tests/train/trained.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int64_t kTotalSteps = 12;

TEST(TrainerProcess, EveryWorldSizeEndsWithTheSameBits) {
  const TestFolder folder;
  const Trained alone = Train(TinyJob(folder), 1, "w1", folder);
  ASSERT_THAT(alone.rank0.steps, SizeIs(kTotalSteps));
  EXPECT_LT(alone.rank0.steps.back().loss(), alone.rank0.steps.front().loss());
  for (const int world_size : {2, 3, 4}) {
    const Trained shared =
        Train(TinyJob(folder), world_size, absl::StrCat("w", world_size), folder);
    EXPECT_TRUE(shared.SameBits(alone)) << world_size << " ranks";
    ASSERT_THAT(shared.rank0.steps, SizeIs(kTotalSteps));
    for (int64_t i = 0; i < kTotalSteps; ++i) {
      const v1::ProgressRecord& ours = shared.rank0.steps[i];
      EXPECT_EQ(ours.loss(), alone.rank0.steps[i].loss()) << "step " << i + 1;
      EXPECT_EQ(ours.tokens(), alone.rank0.steps[i].tokens());
      EXPECT_EQ(ours.sequences_by_rank_size(), world_size);
    }
  }
}

TEST(TrainerProcess, ANumberOfMicrobatchesThatIsNoPowerOfTwoChangesNothing) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_training()->set_accumulation_steps(5);
  start.mutable_spec()->mutable_training()->set_epochs(1);
  const Trained alone = Train(start, 1, "w1", folder);
  EXPECT_TRUE(Train(start, 3, "w3", folder).SameBits(alone));
  EXPECT_TRUE(Train(start, 4, "w4", folder).SameBits(alone));
}

TEST(TrainerProcess, PackedBfloat16RowsEndWithTheSameBitsToo) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_data()->set_packing(true);
  start.mutable_spec()->mutable_training()->set_dtype("bfloat16");
  const Trained alone = Train(start, 1, "w1", folder);
  EXPECT_LT(alone.rank0.steps.back().loss(), alone.rank0.steps.front().loss());
  EXPECT_TRUE(Train(start, 3, "w3", folder).SameBits(alone));
}

TEST(TrainerProcess, AStoppedJobGoesOnWithMoreRanksToTheSameBits) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_training()->set_epochs(20);  // long enough to be stopped amid
  const Trained undisturbed = Train(start, 1, "undisturbed", folder);

  start.set_checkpoint_dir(folder / "stopped");
  TrainerGroup first(start, 2);
  ASSERT_TRUE(first.rank(0).WaitUntil([](const TrainerReports& r) { return AtStep(r, 3); }));
  first.rank(0).Stop(1);
  first.rank(1).Stop(1);
  EXPECT_THAT(first.WaitAll(), Each(ExitStatus{}));
  const TrainerReports rank0 = first.rank(0).reports(), rank1 = first.rank(1).reports();
  ASSERT_TRUE(rank0.Reached(v1::TRAINER_PHASE_STOPPED));
  ASSERT_TRUE(rank1.Reached(v1::TRAINER_PHASE_STOPPED));
  EXPECT_EQ(rank0.states.back().step(), rank1.states.back().step());
  ASSERT_THAT(rank0.checkpoints, SizeIs(1));
  EXPECT_EQ(rank0.checkpoints[0].step(), rank0.states.back().step());
  EXPECT_FALSE(rank0.checkpoints[0].final());
  EXPECT_THAT(rank0.checkpoints[0].manifest_digest(), SizeIs(16));

  *start.add_resume_points() = PointOf(rank0.checkpoints[0]);
  start.set_generation(2);
  TrainerGroup second(start, 3);
  ExpectAllFinished(second);
  const Trained result = ResultOf(second);
  EXPECT_TRUE(result.SameBits(undisturbed));
  EXPECT_EQ(result.rank0.steps.front().step(), rank0.checkpoints[0].step() + 1);
  EXPECT_EQ(result.rank0.states.back().resumed_from(), rank0.checkpoints[0].step());
  EXPECT_TRUE(result.rank0.checkpoints.back().final());
}

TEST(TrainerProcess, AnOrderThatOneRankLacksStopsNobody) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  TrainerGroup group(start, 2);
  group.rank(0).Stop(1);
  ExpectAllFinished(group);
}

TEST(TrainerProcess, AKilledPeerIsToldApartFromAFailureOfOnesOwn) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_training()->set_max_steps(1'000'000);
  TrainerGroup group(start, 3);
  ASSERT_TRUE(group.rank(0).WaitUntil([](const TrainerReports& r) { return AtStep(r, 2); }));
  const RealClock clock;
  const absl::Duration killed_at = clock.MonotonicNow();
  group.rank(1).Kill(SIGKILL);
  for (const int survivor : {0, 2}) {
    EXPECT_EQ(group.rank(survivor).Wait().code, 1);
    const TrainerReports reports = group.rank(survivor).reports();
    ASSERT_TRUE(reports.failure.has_value());
    EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_PEER) << reports.failure->message();
    EXPECT_TRUE(reports.Reached(v1::TRAINER_PHASE_FAILED));
  }
  EXPECT_LT(clock.MonotonicNow() - killed_at, absl::Seconds(15));
}

TEST(TrainerProcess, ACorruptNewestCheckpointFallsBackToTheOneBefore) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(4);
  const Trained undisturbed = Train(start, 1, "job", folder);
  ASSERT_THAT(undisturbed.rank0.checkpoints, SizeIs(3));  // 4, 8, 12
  const v1::CheckpointWritten& newest = undisturbed.rank0.checkpoints[1];
  {
    std::fstream file(newest.path() + "/model.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100'000);
    file.put('\x5a');
    file.put('\xa5');
  }
  *start.add_resume_points() = PointOf(newest);
  *start.add_resume_points() = PointOf(undisturbed.rank0.checkpoints[0]);
  start.set_generation(2);
  const Trained repaired = Train(start, 2, "job", folder);
  ASSERT_THAT(repaired.rank0.corrupt, SizeIs(1));
  EXPECT_EQ(repaired.rank0.corrupt[0].step(), 8);
  EXPECT_THAT(repaired.rank0.corrupt[0].detail(), HasSubstr("model.safetensors"));
  EXPECT_EQ(repaired.rank0.steps.front().step(), 5);
  EXPECT_TRUE(repaired.SameBits(undisturbed));
  EXPECT_FALSE(std::filesystem::exists(newest.path()));
}

TEST(TrainerProcess, AStorageThatIsNotMountedCostsNoCheckpointAndIsNoFreshStart) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  v1::ResumePoint& point = *start.add_resume_points();
  point.set_step(4);
  point.set_generation(1);
  point.set_path(folder / "checkpoints/step-4.g1");
  start.set_generation(2);
  TrainerGroup group(start, 1);
  EXPECT_EQ(group.rank(0).Wait().code, 1);
  const TrainerReports reports = group.rank(0).reports();
  ASSERT_TRUE(reports.failure.has_value());
  EXPECT_EQ(reports.failure->kind(), v1::FAILURE_KIND_WORKER);
  EXPECT_THAT(reports.failure->message(), HasSubstr("mount the storage of checkpoint.dir"));
  EXPECT_THAT(reports.failure->message(), HasSubstr("checkpoints/step-4.g1"));
  EXPECT_THAT(reports.corrupt, SizeIs(0));
  EXPECT_THAT(reports.steps, SizeIs(0));
  EXPECT_FALSE(std::filesystem::exists(folder / "checkpoints"))
      << "no folder is made to fool others";
}

TEST(TrainerProcess, ACheckpointThatIsNotToBeSeenIsPassedOverAndNotCalledCorrupt) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_checkpoint()->set_every_steps(4);
  const Trained undisturbed = Train(start, 1, "job", folder);
  ASSERT_THAT(undisturbed.rank0.checkpoints, SizeIs(3));  // 4, 8, 12
  const v1::CheckpointWritten& newest = undisturbed.rank0.checkpoints[1];
  std::filesystem::rename(newest.path(), newest.path() + ".away");
  *start.add_resume_points() = PointOf(newest);
  *start.add_resume_points() = PointOf(undisturbed.rank0.checkpoints[0]);
  start.set_generation(2);
  const Trained again = Train(start, 1, "job", folder);
  EXPECT_THAT(again.rank0.corrupt, SizeIs(0));
  EXPECT_EQ(again.rank0.steps.front().step(), 5);
  EXPECT_TRUE(again.SameBits(undisturbed));
}

TEST(TrainerProcess, ACheckpointThatAKilledTrainerSetAsideIsToldOfAgain) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  const Trained undisturbed = Train(start, 1, "job", folder);
  ASSERT_THAT(undisturbed.rank0.checkpoints, SizeIs(1));
  const v1::CheckpointWritten& only = undisturbed.rank0.checkpoints[0];
  ASSERT_TRUE(QuarantineCheckpoint(only.path()).ok());
  *start.add_resume_points() = PointOf(only);
  start.set_generation(2);
  const Trained again = Train(start, 1, "job", folder);
  ASSERT_THAT(again.rank0.corrupt, SizeIs(1));
  EXPECT_EQ(again.rank0.corrupt[0].step(), only.step());
  EXPECT_EQ(again.rank0.steps.front().step(), 1);
  EXPECT_TRUE(again.SameBits(undisturbed));
}

TEST(TrainerProcess, EndsAtOnceWhenItsAgentIsGone) {
  const TestFolder folder;
  v1::StartTraining start = TinyJob(folder);
  start.mutable_spec()->mutable_training()->set_max_steps(1'000'000);
  TrainerGroup group(start, 1);
  ASSERT_TRUE(group.rank(0).WaitUntil([](const TrainerReports& r) { return AtStep(r, 1); }));
  group.rank(0).CloseLink();
  EXPECT_EQ(group.rank(0).Wait().code, 3);
}

TEST(TrainerProcess, SharesEachStepAndSaysSo) {
  const TestFolder folder;
  const Trained result = Train(TinyJob(folder), 2, "job", folder);
  ASSERT_THAT(result.rank0.steps, SizeIs(kTotalSteps));
  const v1::ProgressRecord& step = result.rank0.steps[0];
  EXPECT_THAT(step.sequences_by_rank(), ElementsAre(4, 4));
  EXPECT_THAT(result.rank0.steps[5].sequences_by_rank(), ElementsAre(2, 1));
  EXPECT_EQ(step.total_steps(), kTotalSteps);
  EXPECT_EQ(step.world_size(), 2);
  EXPECT_GT(step.tokens(), 0);
  EXPECT_GT(step.gradient_norm(), 0);
  EXPECT_GT(step.learning_rate(), 1e-2);
  EXPECT_GT(step.finished_at().seconds(), 0);
  EXPECT_EQ(step.phase_seconds().count("exchange"), 1u);
  ASSERT_FALSE(result.rank0.logs.empty());
  bool line = false;
  for (const v1::LogLine& log : result.rank0.logs) {
    line = line || log.text().find("Epoch:[1/2](2/6) loss:") == 0;
  }
  EXPECT_TRUE(line) << result.rank0.logs[0].text();
}

}  // namespace
}  // namespace mindforge
