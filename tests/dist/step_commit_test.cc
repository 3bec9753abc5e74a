#include "worker/dist/step_commit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "common/error_details.h"
#include "worker/dist/step_timeout.h"

namespace mindforge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Vote> VotesOf(const std::vector<StepCommit>& ranks) {
  std::vector<Vote> votes;
  for (const StepCommit& rank : ranks) votes.push_back(rank.MakeVote());
  return votes;
}

std::vector<StepCommit> Group(int world_size, int64_t step) {
  std::vector<StepCommit> ranks;
  for (int rank = 0; rank < world_size; ++rank) ranks.emplace_back(rank, world_size, step, 77);
  return ranks;
}

// Completes one vote in all ranks and checks that they conclude the same.
StepDecision CompleteAll(std::vector<StepCommit>& ranks) {
  const std::vector<Vote> votes = VotesOf(ranks);
  StepDecision first;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const auto decision = ranks[i].Complete(votes);
    EXPECT_TRUE(decision.ok()) << decision.status();
    if (i == 0) first = *decision;
    EXPECT_EQ(decision->stop, first.stop);
    EXPECT_EQ(decision->committed_step, first.committed_step);
  }
  return first;
}

void ApplyAll(std::vector<StepCommit>& ranks, int64_t step) {
  for (size_t i = 0; i < ranks.size(); ++i) {
    ranks[i].Applied(step, 100 + static_cast<int64_t>(i), static_cast<int64_t>(i));
  }
}

TEST(StepCommit, CommitsAStepWhenTheVoteAfterItIsComplete) {
  std::vector<StepCommit> ranks = Group(3, 10);
  EXPECT_EQ(CompleteAll(ranks).committed_step, 10);
  ApplyAll(ranks, 11);
  EXPECT_EQ(ranks[0].applied_step(), 11);
  EXPECT_EQ(ranks[0].committed_step(), 10);
  const StepDecision decision = CompleteAll(ranks);
  EXPECT_EQ(decision.committed_step, 11);
  EXPECT_EQ(decision.tokens, 303);
  EXPECT_THAT(decision.sequences_by_rank, ElementsAre(0, 1, 2));
  EXPECT_FALSE(decision.stop);
}

TEST(StepCommit, StopsAfterTheFirstStepAtWhichAllHoldTheOrder) {
  std::vector<StepCommit> ranks = Group(3, 0);
  ranks[0].HoldStop(5);
  ranks[1].HoldStop(4);
  EXPECT_FALSE(CompleteAll(ranks).stop);
  ApplyAll(ranks, 1);
  ranks[2].HoldStop(9);
  const StepDecision decision = CompleteAll(ranks);
  EXPECT_TRUE(decision.stop);
  EXPECT_EQ(decision.committed_step, 1);
  EXPECT_EQ(decision.stop_sequence, 4);
}

TEST(StepCommit, AnOlderOrderChangesNothing) {
  StepCommit rank(0, 1, 0, 77);
  rank.HoldStop(5);
  rank.HoldStop(3);
  EXPECT_EQ(rank.MakeVote().stop_sequence, 5);
}

TEST(StepCommit, RefusesAPeerAtAnotherStep) {
  std::vector<StepCommit> ranks = Group(2, 3);
  std::vector<Vote> votes = VotesOf(ranks);
  votes[1].applied_step = 4;
  const auto decision = ranks[0].Complete(votes);
  EXPECT_EQ(decision.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ranks[0].committed_step(), -1);
}

TEST(StepCommit, RefusesAPeerThatTrainsSomethingElse) {
  std::vector<StepCommit> ranks = Group(2, 0);
  std::vector<Vote> votes = VotesOf(ranks);
  votes[1].agreement = 78;
  const auto decision = ranks[0].Complete(votes);
  // No fault of the job's: which of the ranks sees the wrong files, none can tell.
  EXPECT_EQ(GetReason(decision.status()), kRanksDisagree) << decision.status();
  EXPECT_THAT(decision.status().message(), HasSubstr("rank 1"));
}

TEST(StepCommit, RefusesVotesInTheWrongPlaceOrNumber) {
  std::vector<StepCommit> ranks = Group(2, 0);
  std::vector<Vote> votes = VotesOf(ranks);
  std::swap(votes[0], votes[1]);
  EXPECT_FALSE(ranks[0].Complete(votes).ok());
  votes.pop_back();
  EXPECT_FALSE(ranks[0].Complete(votes).ok());
}

TEST(StepCommitDeathTest, AStepIsNotAppliedBeforeItsVote) {
  StepCommit rank(0, 1, 0, 77);
  EXPECT_DEATH(rank.Applied(1, 0, 0), "before the vote");
}

TEST(StepTimeout, LiesBetweenFloorAndCeilingAndFollowsTheSteps) {
  StepTimeout timeout;
  EXPECT_EQ(timeout.Get(), StepTimeout::kCeiling);
  timeout.Measured(0.01);
  EXPECT_EQ(timeout.Get(), StepTimeout::kFloor);
  timeout.Measured(4);
  EXPECT_EQ(timeout.Get(), absl::Seconds(80));
  timeout.Measured(1);
  EXPECT_LT(timeout.Get(), absl::Seconds(80));
  EXPECT_GT(timeout.Get(), absl::Seconds(70));
  timeout.Measured(1e6);
  EXPECT_EQ(timeout.Get(), StepTimeout::kCeiling);
}

}  // namespace
}  // namespace mindforge
