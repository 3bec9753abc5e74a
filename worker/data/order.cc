#include "worker/data/order.h"

#include <algorithm>
#include <numeric>

#include "common/check.h"

namespace mindforge {
namespace {

// SplitMix64's finaliser: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Permutation::Permutation(int64_t n, uint64_t seed, int64_t epoch) : n_(static_cast<uint64_t>(n)) {
  MF_CHECK(n >= 1) << "a permutation of " << n << " things";
  half_bits_ = 1;
  while (half_bits_ < 31 && (uint64_t{1} << (2 * half_bits_)) < n_) ++half_bits_;
  MF_CHECK((uint64_t{1} << (2 * half_bits_)) >= n_) << n << " sequences are too many";
  uint64_t state = Mix(seed + 0x9E3779B97F4A7C15u) ^ Mix(~static_cast<uint64_t>(epoch));
  for (uint64_t& key : keys_) key = Mix(state += 0x9E3779B97F4A7C15u);
}

int64_t Permutation::At(int64_t i) const {
  MF_CHECK(i >= 0 && static_cast<uint64_t>(i) < n_) << i << " of " << n_;
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<uint64_t>(i);
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & mask;
    for (const uint64_t key : keys_) {
      const uint64_t next = left ^ (Mix(right ^ key) & mask);
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= n_);
  return static_cast<int64_t>(value);
}

EpochPlan::EpochPlan(EpochPlanOptions options) : options_(options) {
  MF_CHECK(options_.sequences >= 1);
  MF_CHECK(options_.microbatch_size >= 1);
  MF_CHECK(options_.accumulation_steps >= 1);
}

int64_t EpochPlan::StepsPerEpoch() const {
  // In microbatches first: A·B may be larger than any number of sequences.
  return CeilDiv(CeilDiv(options_.sequences, options_.microbatch_size),
                 options_.accumulation_steps);
}

StepPosition EpochPlan::PositionOf(int64_t step) const {
  MF_CHECK(step >= 1) << "steps count from 1, not " << step;
  const int64_t steps = StepsPerEpoch();
  return {(step - 1) / steps, (step - 1) % steps};
}

int64_t EpochPlan::MicrobatchesInStep(int64_t step_in_epoch) const {
  MF_CHECK(step_in_epoch >= 0 && step_in_epoch < StepsPerEpoch()) << step_in_epoch;
  const int64_t all = CeilDiv(options_.sequences, options_.microbatch_size);
  return std::min(options_.accumulation_steps, all - step_in_epoch * options_.accumulation_steps);
}

std::vector<int64_t> EpochPlan::SequencesOf(int64_t epoch, int64_t step_in_epoch,
                                            int64_t microbatch) const {
  MF_CHECK(microbatch >= 0 && microbatch < MicrobatchesInStep(step_in_epoch)) << microbatch;
  const int64_t first =
      (step_in_epoch * options_.accumulation_steps + microbatch) * options_.microbatch_size;
  std::vector<int64_t> sequences(std::min(options_.microbatch_size, options_.sequences - first));
  std::iota(sequences.begin(), sequences.end(), first);
  const Permutation permutation(options_.sequences, options_.seed, epoch);
  for (int64_t& sequence : sequences) sequence = permutation.At(sequence);
  return sequences;
}

int64_t EpochPlan::SequencesConsumed(int64_t steps_done) const {
  MF_CHECK(steps_done >= 0 && steps_done <= StepsPerEpoch()) << steps_done;
  if (steps_done == StepsPerEpoch()) return options_.sequences;
  return steps_done * options_.accumulation_steps * options_.microbatch_size;
}

}  // namespace mindforge
