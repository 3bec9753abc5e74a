// One optimizer step: a rank's run of microbatches, the exchange, and the update that every rank
// applies alike. It does not know votes, checkpoints' schedule or reports. What a step does depends
// on (dataset, settings, step, state before) alone.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/dist/gradient_reducer.h"
#include "worker/dist/process_group.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/train/checkpoint_writer.h"
#include "worker/train/job_setup.h"
#include "worker/train/lap.h"
#include "worker/train/microbatch_loader.h"
#include "worker/train/step_guard.h"
#include "worker/train/step_report.h"
#include "worker/train/train_options.h"

namespace mindforge {

// What a run trains with. Borrowed, all of it.
struct TrainParts {
  const TrainRecipe& recipe;
  const JobSetup& setup;
  Minimind& model;
  AdamW& optimizer;
  MicrobatchLoader& loader;
  ProcessGroup& group;
  const Clock& clock;
};

// Not thread-safe.
class StepRunner {
 public:
  explicit StepRunner(const TrainParts& parts);

  // Computes step `step` (from 1, over the whole run) and updates the model, or not: see the
  // result's verdict. `writer`, where there is one, has its copy done before the update. Errors as
  // ProcessGroup's and Minimind's; the step is lost then.
  absl::StatusOr<StepResult> Run(int64_t step, absl::Duration timeout, CheckpointWriter* writer);

  StepGuard& guard() { return guard_; }
  const StepGuard& guard() const { return guard_; }

 private:
  absl::Status ComputeRun(int64_t step, const StepPosition& position, const MicrobatchRange& run,
                          StepResult* result);
  bool Apply(const at::Tensor& gradient, int64_t microbatches, StepResult* result);

  const TrainParts parts_;
  GradientReducer reducer_;
  StepGuard guard_;
};

}  // namespace mindforge
