// Which steps are skipped, rolled back or the end, and what float16's loss scale does meanwhile.
#include "worker/train/step_guard.h"

#include <gtest/gtest.h>

namespace mindforge {
namespace {

TEST(StepGuard, CountsUpdatesOfGoodSteps) {
  StepGuard guard(/*scaled=*/false, NanPolicy::kStop);
  EXPECT_EQ(guard.next_update(), 1);
  EXPECT_EQ(guard.loss_scale(), 1);
  EXPECT_EQ(guard.Finished(true), StepVerdict::kApplied);
  EXPECT_EQ(guard.next_update(), 2);
  EXPECT_EQ(guard.counters(), (TrainingCounters{.updates = 1}));
}

TEST(StepGuard, StopsByDefault) {
  StepGuard guard(/*scaled=*/false, NanPolicy::kStop);
  EXPECT_EQ(guard.Finished(false), StepVerdict::kStop);
}

TEST(StepGuard, HalvesTheScaleAndSkipsOnOverflowWhateverThePolicy) {
  for (const NanPolicy policy : {NanPolicy::kStop, NanPolicy::kSkip, NanPolicy::kRollBack}) {
    StepGuard guard(/*scaled=*/true, policy);
    EXPECT_EQ(guard.loss_scale(), 65536);
    EXPECT_EQ(guard.Finished(true), StepVerdict::kApplied);
    EXPECT_EQ(guard.Finished(false), StepVerdict::kSkipped);
    EXPECT_EQ(guard.loss_scale(), 32768);
    EXPECT_EQ(guard.next_update(), 2) << "a skipped step is no update";
    EXPECT_EQ(guard.counters().skipped_steps, 1);
    EXPECT_EQ(guard.counters().good_steps, 0);
  }
}

TEST(StepGuard, DoublesTheScaleAfterTwoThousandGoodStepsInARow) {
  StepGuard guard(/*scaled=*/true, NanPolicy::kStop);
  guard.Finished(true);
  guard.Finished(false);  // begins the count anew
  for (int i = 0; i < 1999; ++i) guard.Finished(true);
  EXPECT_EQ(guard.loss_scale(), 32768);
  guard.Finished(true);
  EXPECT_EQ(guard.loss_scale(), 65536);
  EXPECT_EQ(guard.counters().good_steps, 0);
}

TEST(StepGuard, AtTheLeastScaleThePolicyDecides) {
  StepGuard guard(/*scaled=*/true, NanPolicy::kStop);
  for (int i = 0; i < 16; ++i) ASSERT_EQ(guard.Finished(false), StepVerdict::kSkipped);
  EXPECT_EQ(guard.loss_scale(), 1);
  EXPECT_EQ(guard.Finished(false), StepVerdict::kStop);
  EXPECT_EQ(guard.loss_scale(), 1);
}

TEST(StepGuard, GoesOnFromACheckpointAsTheUndisturbedRun) {
  StepGuard undisturbed(/*scaled=*/true, NanPolicy::kSkip), resumed(true, NanPolicy::kSkip);
  for (int i = 0; i < 5; ++i) undisturbed.Finished(i % 2 == 0);
  resumed.Resume(undisturbed.counters());
  for (int i = 0; i < 3000; ++i) {
    EXPECT_EQ(resumed.Finished(i % 700 != 0), undisturbed.Finished(i % 700 != 0));
  }
  EXPECT_EQ(resumed.counters(), undisturbed.counters());
  EXPECT_EQ(resumed.loss_scale(), undisturbed.loss_scale());
}

TEST(StepGuard, ACheckpointOfAnotherDtypeKnowsNoScale) {
  StepGuard guard(/*scaled=*/true, NanPolicy::kStop);
  guard.Resume({.updates = 7});
  EXPECT_EQ(guard.loss_scale(), 65536);
  EXPECT_EQ(guard.next_update(), 8);
}

TEST(StepGuard, SkippingHasALimitOfStepsInARow) {
  StepGuard guard(/*scaled=*/false, NanPolicy::kSkip);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(guard.Finished(false), StepVerdict::kSkipped);
  EXPECT_EQ(guard.Finished(false), StepVerdict::kStop);
  StepGuard other(/*scaled=*/false, NanPolicy::kSkip);
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(other.Finished(i % 3 == 0),
              i % 3 == 0 ? StepVerdict::kApplied : StepVerdict::kSkipped);
  }
  EXPECT_EQ(other.counters().skipped_steps, 200);
}

TEST(StepGuard, ARollbackTakesUpTheCheckpointsCountersAndLeavesOutTheStepsSince) {
  StepGuard guard(/*scaled=*/false, NanPolicy::kRollBack);
  for (int i = 0; i < 14; ++i) guard.Finished(true);
  EXPECT_EQ(guard.Finished(false), StepVerdict::kRollBack);
  ASSERT_TRUE(
      guard.RolledBack({.updates = 9, .skipped_steps = 1}, /*checkpoint_step=*/10, /*step=*/15));
  EXPECT_EQ(guard.next_update(), 10);
  EXPECT_EQ(guard.counters().skipped_steps, 6);
  EXPECT_EQ(guard.counters().rollbacks_in_a_row, 1);
  EXPECT_EQ(guard.Finished(true), StepVerdict::kApplied);
  // Again to the same checkpoint: everything since it is left out, each step counted once.
  EXPECT_EQ(guard.Finished(false), StepVerdict::kRollBack);
  ASSERT_TRUE(guard.RolledBack({.updates = 9, .skipped_steps = 1}, 10, 17));
  EXPECT_EQ(guard.counters().skipped_steps, 8);
  EXPECT_EQ(guard.counters().rollbacks_in_a_row, 2);
}

// A checkpoint that was begun and could not be written, on a full disk say, is none: the rollback
// finds the old one again.
TEST(StepGuard, TheFourthRollbackToTheSameCheckpointIsTheEnd) {
  StepGuard guard(/*scaled=*/false, NanPolicy::kRollBack);
  const TrainingCounters checkpoint{.updates = 9};
  for (int i = 1; i <= 3; ++i) {
    for (int good = 0; good < 20; ++good) guard.Finished(true);
    EXPECT_EQ(guard.Finished(false), StepVerdict::kRollBack);
    EXPECT_TRUE(guard.RolledBack(checkpoint, 10, 10 + 21 * i));
    EXPECT_EQ(guard.counters().rollbacks_in_a_row, i);
  }
  EXPECT_EQ(guard.Finished(false), StepVerdict::kRollBack);
  EXPECT_FALSE(guard.RolledBack(checkpoint, 10, 100));
  EXPECT_EQ(guard.counters().rollbacks_in_a_row, 3);
  // One of the rolled-back state itself is nothing new.
  EXPECT_FALSE(guard.RolledBack(checkpoint, 73, 100));
  EXPECT_TRUE(guard.RolledBack({.updates = 10}, 74, 100));
  EXPECT_EQ(guard.counters().rollbacks_in_a_row, 1);
}

TEST(StepGuard, ARunThatWasResumedCountsRollbacksAsTheUndisturbedOne) {
  StepGuard guard(/*scaled=*/false, NanPolicy::kRollBack);
  ASSERT_TRUE(guard.RolledBack({.updates = 5}, 5, 8));
  const TrainingCounters saved = guard.counters();  // in a checkpoint of step 8: nothing new
  StepGuard resumed(/*scaled=*/false, NanPolicy::kRollBack);
  resumed.Resume(saved);
  ASSERT_TRUE(guard.RolledBack(saved, 8, 9));
  ASSERT_TRUE(resumed.RolledBack(saved, 8, 9));
  EXPECT_EQ(resumed.counters(), guard.counters());
  EXPECT_EQ(resumed.counters().rollbacks_in_a_row, 2);
}

}  // namespace
}  // namespace mindforge
