// Which rows train, which are held out, and what a rollback goes back to.
#include "worker/train/row_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "tests/train/training_job.h"
#include "worker/train/rollback.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(RowSplit, NothingHeldOutLeavesTheRowsAsTheyAre) {
  const auto split = RowSplit::Make(10, 0, 42);
  ASSERT_TRUE(split.ok());
  EXPECT_EQ(split->held_out_rows(), 0);
  for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(split->TrainingRow(i), i);
}

TEST(RowSplit, EveryRowIsOnOneSideOnce) {
  for (const int64_t rows : {2, 3, 43, 1000}) {
    const auto split = RowSplit::Make(rows, 0.1, 42);
    ASSERT_TRUE(split.ok());
    EXPECT_EQ(split->held_out_rows(), std::max<int64_t>(1, (rows + 5) / 10));
    std::set<int64_t> seen;
    for (int64_t i = 0; i < split->training_rows(); ++i) seen.insert(split->TrainingRow(i));
    for (int64_t i = 0; i < split->held_out_rows(); ++i) seen.insert(split->HeldOutRow(i));
    EXPECT_EQ(static_cast<int64_t>(seen.size()), rows);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), rows - 1);
  }
}

TEST(RowSplit, IsAFunctionOfTheSeed) {
  const auto held_out = [](uint64_t seed) {
    const auto split = RowSplit::Make(1000, 0.05, seed);
    std::set<int64_t> rows;
    for (int64_t i = 0; i < split->held_out_rows(); ++i) rows.insert(split->HeldOutRow(i));
    return rows;
  };
  EXPECT_EQ(held_out(1), held_out(1));
  EXPECT_NE(held_out(1), held_out(2));
}

TEST(RowSplit, RefusesWhatLeavesNothingToTrainOn) {
  for (const double share : {0.6, -0.1}) {
    EXPECT_FALSE(RowSplit::Make(100, share, 1).ok()) << share;
  }
  const auto one = RowSplit::Make(1, 0.1, 1);
  ASSERT_FALSE(one.ok());
  EXPECT_EQ(GetViolations(one.status())[0].field, "data.validation_fraction");
}

class RollbackPointsTest : public ::testing::Test {
 protected:
  void Have(const std::string& name) {
    std::filesystem::create_directories(folder_ / name);
    std::ofstream(folder_ / (name + "/MANIFEST.json")) << "{}";
  }
  std::vector<std::string> Points(int64_t step, int64_t every) {
    const auto points = RollbackPoints(folder_ / "", step, every);
    EXPECT_TRUE(points.ok()) << points.status();
    std::vector<std::string> names;
    for (const CheckpointFolder& point : *points) {
      names.push_back(absl::StrCat(point.step, ".", point.generation));
    }
    return names;
  }

  const TestFolder folder_;
};

TEST_F(RollbackPointsTest, TheSchedulesNewestStepComesFirst) {
  for (const char* name : {"step-5.g1", "step-10.g1", "step-10.g2", "step-12.g2", "step-15.g2",
                           "step-20.g2", "quarantined-step-10.g3"}) {
    Have(name);
  }
  EXPECT_THAT(Points(15, 5), ElementsAre("10.2", "10.1", "12.2", "5.1"));
  EXPECT_THAT(Points(16, 5), ElementsAre("15.2", "12.2", "10.2", "10.1", "5.1"));
}

TEST_F(RollbackPointsTest, BeforeTheFirstCheckpointItIsTheStart) {
  Have("step-3.g1");  // of a pause
  EXPECT_THAT(Points(5, 5), IsEmpty());
  EXPECT_THAT(Points(100, 0), IsEmpty());
}

}  // namespace
}  // namespace mindforge
