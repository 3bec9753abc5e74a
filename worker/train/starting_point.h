// Where training goes on from: rank 0 takes the newest checkpoint that verifies (or what init_from
// names, or fresh weights) and gives weights and moments to the others, so that one
// copy is verified and all ranks agree.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/dist/process_group.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/train/job_setup.h"
#include "worker/train/progress_sink.h"
#include "worker/train/train_options.h"

namespace mindforge {

struct StartingPoint {
  int64_t step = 0;  // the last step that is done
  double loss = 0;   // of the last step that was applied
  TrainingCounters counters;
  bool of_checkpoint = false;  // of this job's own
};

// All ranks call it, at the start and to roll back; rank 0's `resume_points`, newest first, decide.
// Bad checkpoints are quarantined and reported; with nothing but bad ones training starts anew.
// WORKER_UNFIT (failure.h): one cannot be read here, or those that are not bad are not to be seen.
// INVALID_ARGUMENT: a checkpoint of another model or dataset, or an init_from that does not fit.
absl::StatusOr<StartingPoint> RestoreOrInitialize(
    const TrainOptions& options, const std::vector<CheckpointFolder>& resume_points,
    const JobSetup& setup, Minimind& model, AdamW& optimizer, ProcessGroup& group,
    ProgressSink& sink);

}  // namespace mindforge
