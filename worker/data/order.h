// Which sequences make up microbatch i of step s: a pure function of (number of sequences, seed,
// epoch, s, i), so that any rank can compute any microbatch and nothing has to be remembered. It
// does not know what a sequence holds.
#pragma once

#include <cstdint>
#include <vector>

namespace mindforge {

// A permutation of [0, n) in constant memory: a keyed Feistel network on the next even power of
// two, walked until it lands inside. A value type.
class Permutation {
 public:
  // REQUIRES: n >= 1.
  Permutation(int64_t n, uint64_t seed, int64_t epoch);
  // REQUIRES: 0 <= i < n.
  int64_t At(int64_t i) const;

 private:
  static constexpr int kRounds = 8;
  uint64_t n_;
  int half_bits_;
  uint64_t keys_[kRounds];
};

struct EpochPlanOptions {
  int64_t sequences = 0;           // N
  int64_t microbatch_size = 0;     // B
  int64_t accumulation_steps = 0;  // A
  uint64_t seed = 0;
};

// Where a step of the whole run lies.
struct StepPosition {
  int64_t epoch = 0;          // from 0
  int64_t step_in_epoch = 0;  // from 0
};

// The order of one job's data. Immutable, safe from any thread.
class EpochPlan {
 public:
  // REQUIRES: sequences, microbatch_size and accumulation_steps are positive.
  explicit EpochPlan(EpochPlanOptions options);

  // ceil(N / (A·B)).
  int64_t StepsPerEpoch() const;
  // Epoch and step inside it of optimizer step `step`, counted from 1 over the whole run.
  StepPosition PositionOf(int64_t step) const;
  // A, or for an epoch's last step ceil(what remains / B).
  int64_t MicrobatchesInStep(int64_t step_in_epoch) const;
  // The sequences of microbatch i: B of them, fewer in an epoch's last.
  std::vector<int64_t> SequencesOf(int64_t epoch, int64_t step_in_epoch, int64_t microbatch) const;
  // Sequences consumed in the epoch when `steps_done` of its steps are done.
  int64_t SequencesConsumed(int64_t steps_done) const;

 private:
  EpochPlanOptions options_;
};

}  // namespace mindforge
