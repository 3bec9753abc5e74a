#include "worker/dist/step_commit.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/error_details.h"

namespace mindforge {

StepCommit::StepCommit(int rank, int world_size, int64_t applied_step, uint64_t agreement)
    : world_size_(world_size) {
  MF_CHECK(rank >= 0 && rank < world_size) << "rank " << rank << " of " << world_size;
  mine_.rank = rank;
  mine_.applied_step = applied_step;
  mine_.agreement = agreement;
}

void StepCommit::HoldStop(int64_t sequence) {
  mine_.stop_sequence = std::max(mine_.stop_sequence, sequence);
}

void StepCommit::Applied(int64_t step, int64_t tokens, int64_t sequences) {
  MF_CHECK(!voting_) << "step " << step << " applied before the vote for it was complete";
  MF_CHECK_EQ(step, mine_.applied_step + 1);
  mine_.applied_step = step;
  mine_.tokens = tokens;
  mine_.sequences = sequences;
  voting_ = true;
}

Vote StepCommit::MakeVote() const {
  MF_CHECK(voting_) << "the vote after step " << mine_.applied_step << " is complete already";
  return mine_;
}

absl::StatusOr<StepDecision> StepCommit::Complete(absl::Span<const Vote> votes) {
  MF_CHECK(voting_) << "the vote after step " << mine_.applied_step << " is complete already";
  if (votes.size() != static_cast<size_t>(world_size_)) {
    return absl::InternalError(absl::StrCat("a vote of ", votes.size(), " in a group of ",
                                            world_size_, " after step ", mine_.applied_step));
  }
  StepDecision decision{.committed_step = mine_.applied_step};
  int64_t held_by_all = std::numeric_limits<int64_t>::max();
  for (int rank = 0; rank < world_size_; ++rank) {
    const Vote& vote = votes[rank];
    if (vote.rank != rank || vote.applied_step != mine_.applied_step) {
      return absl::InternalError(absl::StrCat("rank ", vote.rank, " voted in rank ", rank,
                                              "'s place after step ", vote.applied_step,
                                              ", this rank is at step ", mine_.applied_step));
    }
    if (vote.agreement != mine_.agreement) {
      return Error(
          absl::StatusCode::kAborted, kRanksDisagree,
          absl::StrCat("rank ", rank, " trains something else than rank ", mine_.rank,
                       ": their dataset, model, settings or numerics differ; make all workers see"
                       " the same files and run the same build; the job is tried again"));
    }
    held_by_all = std::min(held_by_all, vote.stop_sequence);
    decision.tokens += vote.tokens;
    decision.sequences_by_rank.push_back(vote.sequences);
  }
  decision.stop = held_by_all > 0;
  if (decision.stop) decision.stop_sequence = held_by_all;
  committed_step_ = mine_.applied_step;
  voting_ = false;
  return decision;
}

}  // namespace mindforge
