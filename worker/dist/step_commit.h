// The step commit: what a rank says after each optimizer step, and what the group concludes when it
// has heard all. A pure state machine: no transport, clock or thread.
//
//   (start) -> voting for start+1 -> Complete -> training start+1 -> Applied -> voting -> ...
//
// A rank votes for step s+1 only after it has applied step s, so members differ by one step at
// most, and step s is committed when the vote for s+1 is complete. The vote carries the newest stop
// order that each rank holds; since all see the same votes, all stop after the same step: the first
// at which every rank holds an order.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mindforge {

// Why ranks that trained something else than each other ended: error_details.h's reason.
inline constexpr char kRanksDisagree[] = "RANKS_DISAGREE";

// What one rank says at a step's boundary. Fixed layout: it travels as its bytes, between processes
// of one build on machines of one byte order.
struct Vote {
  int64_t rank = 0;
  int64_t applied_step = 0;
  // Newest StopTraining held, 0: none.
  int64_t stop_sequence = 0;
  // Hash of all that ranks must agree on before they may train together (data, order, model).
  uint64_t agreement = 0;
  // Of the step applied, by this rank.
  int64_t tokens = 0;
  int64_t sequences = 0;
};

// What a complete vote means.
struct StepDecision {
  int64_t committed_step = 0;
  bool stop = false;
  int64_t stop_sequence = 0;  // the newest that all hold, when `stop`
  int64_t tokens = 0;         // of all ranks
  std::vector<int64_t> sequences_by_rank;
};

// One rank's side. Not thread-safe.
class StepCommit {
 public:
  // `applied_step`: the step that training goes on from. REQUIRES: 0 <= rank < world_size.
  StepCommit(int rank, int world_size, int64_t applied_step, uint64_t agreement);

  // The rank now holds the order `sequence`; older ones change nothing.
  void HoldStop(int64_t sequence);

  // The update of `step` is done. REQUIRES: the vote for it is complete and it is the next one.
  void Applied(int64_t step, int64_t tokens, int64_t sequences);

  // What to send. REQUIRES: no vote of this step is complete yet.
  Vote MakeVote() const;

  // Takes one vote of each rank, in rank order. INTERNAL when ranks are at different steps or in
  // the wrong place, FAILED_PRECONDITION when they disagree on data or settings; nothing is
  // committed then.
  absl::StatusOr<StepDecision> Complete(absl::Span<const Vote> votes);

  int64_t applied_step() const { return mine_.applied_step; }
  int64_t committed_step() const { return committed_step_; }

 private:
  const int world_size_;
  Vote mine_;
  int64_t committed_step_ = -1;
  bool voting_ = true;
};

}  // namespace mindforge
