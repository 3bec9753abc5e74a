// What becomes of a step whose loss or gradient is not finite: float16's dynamic loss scaling and
// the job's policy, as one pure state machine. All ranks feed it the combined gradient's verdict,
// so all decide the same. What it counts is saved with each checkpoint: a resumed run decides as
// the undisturbed one.
//
// As PyTorch's GradScaler: a skipped step consumes its data and the learning rate's schedule goes
// on, but AdamW's own step, which its bias corrections count, does not advance.
#pragma once

#include <cstdint>

#include "worker/formats/checkpoint.h"
#include "worker/train/train_options.h"

namespace mindforge {

enum class StepVerdict {
  kApplied,
  kSkipped,   // the step changed nothing; training goes on
  kRollBack,  // take the newest checkpoint up again, then call RolledBack
  kStop,      // the job fails
};

// One rank's copy. Not thread-safe.
class StepGuard {
 public:
  static constexpr double kInitialScale = 65536;
  static constexpr int64_t kGrowthInterval = 2000;  // good steps until the scale doubles
  static constexpr double kLeastScale = 1;
  // Of rollbacks to the same updates, and of steps that nan_policy skips one
  // after the other: beyond it training makes no progress.
  static constexpr int64_t kMaxRollbacks = 3;
  static constexpr int64_t kMaxSkipped = 100;

  // `scaled`: the gradient is that of a scaled loss (float16).
  StepGuard(bool scaled, NanPolicy policy);

  // Goes on from a checkpoint's counters.
  void Resume(const TrainingCounters& counters);

  // What the loss of the next step is multiplied by; 1 without scaling.
  double loss_scale() const { return scaled_ ? counters_.loss_scale : 1; }
  // AdamW's step of the next update, from 1.
  int64_t next_update() const { return counters_.updates + 1; }
  bool scaled() const { return scaled_; }

  // A step was computed; `finite`: its loss and its gradient's norm are. An overflow above the
  // least scale is always skipped; below it the numbers themselves are at fault and the policy
  // decides.
  StepVerdict Finished(bool finite);

  // After kRollBack at `step`: the model is again as `at_checkpoint` says, of `checkpoint_step`.
  // False when that is no further than the kMaxRollbacks before it came: the job fails. Only a
  // checkpoint that could be read counts as progress, never one that was merely begun.
  [[nodiscard]] bool RolledBack(const TrainingCounters& at_checkpoint, int64_t checkpoint_step,
                                int64_t step);

  const TrainingCounters& counters() const { return counters_; }

 private:
  const bool scaled_;
  const NanPolicy policy_;
  TrainingCounters counters_;
};

}  // namespace mindforge
