#include "worker/train/step_guard.h"

#include <algorithm>
#include <limits>

namespace mindforge {

StepGuard::StepGuard(bool scaled, NanPolicy policy) : scaled_(scaled), policy_(policy) {
  Resume({});
}

void StepGuard::Resume(const TrainingCounters& counters) {
  counters_ = counters;
  // A checkpoint of another dtype, or weights from elsewhere, know of no scale.
  const bool usable = counters_.loss_scale >= kLeastScale &&
                      counters_.loss_scale <= std::numeric_limits<float>::max() &&
                      counters_.good_steps >= 0 && counters_.good_steps < kGrowthInterval;
  if (scaled_ && !usable) {
    counters_.loss_scale = kInitialScale;
    counters_.good_steps = 0;
  }
  if (!scaled_) counters_.loss_scale = 0;
}

StepVerdict StepGuard::Finished(bool finite) {
  if (finite) {
    ++counters_.updates;
    counters_.skipped_in_a_row = 0;
    if (scaled_ && ++counters_.good_steps == kGrowthInterval) {
      counters_.good_steps = 0;
      const double doubled = counters_.loss_scale * 2;
      if (doubled <= std::numeric_limits<float>::max()) counters_.loss_scale = doubled;
    }
    return StepVerdict::kApplied;
  }
  counters_.good_steps = 0;
  const bool overflow = scaled_ && counters_.loss_scale > kLeastScale;
  if (overflow) counters_.loss_scale = std::max(kLeastScale, counters_.loss_scale / 2);
  if (!overflow && policy_ == NanPolicy::kStop) return StepVerdict::kStop;
  if (!overflow && policy_ == NanPolicy::kRollBack) return StepVerdict::kRollBack;
  if (!overflow && counters_.skipped_in_a_row >= kMaxSkipped) return StepVerdict::kStop;
  ++counters_.skipped_steps;
  ++counters_.skipped_in_a_row;
  return StepVerdict::kSkipped;
}

bool StepGuard::RolledBack(const TrainingCounters& at_checkpoint, int64_t checkpoint_step,
                           int64_t step) {
  const bool further = at_checkpoint.updates > counters_.rolled_back_to;
  const int64_t before = further ? 0 : counters_.rollbacks_in_a_row;
  if (before >= kMaxRollbacks) return false;
  Resume(at_checkpoint);
  counters_.skipped_steps += step - checkpoint_step;
  counters_.skipped_in_a_row = 0;
  counters_.rollbacks_in_a_row = before + 1;
  counters_.rolled_back_to = at_checkpoint.updates;
  return true;
}

}  // namespace mindforge
