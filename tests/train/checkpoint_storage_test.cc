// Whether all ranks see the storage that the job's checkpoints are on.
#include "worker/train/checkpoint_storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/durable_file.h"
#include "tests/fakes/local_group.h"
#include "tests/fakes/temp_dir.h"
#include "worker/train/failure.h"

namespace mindforge {
namespace {

using ::testing::HasSubstr;

TEST(CheckpointStorage, IsMarkedOnceForAJobThatBegins) {
  const TempDir dir;
  const TrainOptions options{.checkpoint_dir = dir.File("job")};
  const auto marker = OpenCheckpointStorage(options);
  ASSERT_TRUE(marker.ok()) << marker.status();
  EXPECT_NE(*marker, "");
  EXPECT_EQ(*OpenCheckpointStorage(options), *marker);
}

TEST(CheckpointStorage, MustShowACheckpointOfAJobThatGoesOn) {
  const TempDir dir;
  TrainOptions options{.checkpoint_dir = dir.File("job")};
  options.resume_points = {{dir.File("job/step-8.g1"), 8, 1}, {dir.File("job/step-4.g1"), 4, 1}};
  const absl::Status unmounted = OpenCheckpointStorage(options).status();
  EXPECT_EQ(ClassifyFailure(unmounted), FailureClass::kWorker);
  EXPECT_THAT(unmounted.message(), HasSubstr("mount the storage of checkpoint.dir"));
  EXPECT_FALSE(PathExists(dir.File("job")));
  ASSERT_TRUE(MakeDirs(dir.File("job/step-4.g1")).ok());
  EXPECT_TRUE(OpenCheckpointStorage(options).ok());
}

// Its first rank 0 could write there.
TEST(CheckpointStorage, ThatCannotBeUsedIsTheWorkersWhereTheJobHasBegun) {
  const TempDir dir;
  TrainOptions options{.checkpoint_dir = dir.Write("file", "x") + "/job"};
  EXPECT_EQ(ClassifyFailure(OpenCheckpointStorage(options).status()), FailureClass::kUser);
  options.dataset_digest = "5724faf8bdb7e926";
  const absl::Status begun = OpenCheckpointStorage(options).status();
  EXPECT_EQ(ClassifyFailure(begun), FailureClass::kWorker) << begun;
  EXPECT_THAT(begun.message(), HasSubstr("cannot be used on"));
}

TEST(CheckpointStorage, ARankThatSeesAnotherFolderOfTheSameNameIsFoundOut) {
  const TempDir dir;
  const TrainOptions first{.rank = 0, .checkpoint_dir = dir.File("a")};
  const auto marker = OpenCheckpointStorage(first);
  ASSERT_TRUE(marker.ok());
  ASSERT_TRUE(OpenCheckpointStorage({.checkpoint_dir = dir.File("b")}).ok());
  RunRanks(3, [&](ProcessGroup& group) {
    const int rank = group.rank();
    const TrainOptions options{.rank = rank, .checkpoint_dir = dir.File(rank < 2 ? "a" : "b")};
    const absl::Status shared = CheckSharedStorage(options, rank == 0 ? *marker : "", group);
    EXPECT_EQ(shared.ok(), rank < 2) << shared;
    if (rank == 2) {
      EXPECT_EQ(ClassifyFailure(shared), FailureClass::kWorker);
    }
  });
}

}  // namespace
}  // namespace mindforge
