// Where training goes on from: rank 0 takes the newest checkpoint that verifies (or the model
// folder to start from, or fresh weights) and gives weights and moments to the others, so that one
// copy is verified and all ranks agree.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/dist/process_group.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/train/progress_sink.h"
#include "worker/train/train_options.h"

namespace mindforge {

struct StartingPoint {
  int64_t step = 0;  // the last step that is done
  double loss = 0;   // of that step
};

// All ranks call it. Bad checkpoints are quarantined and reported. INVALID_ARGUMENT: a checkpoint
// of another model or dataset, or an init_from that does not fit.
absl::StatusOr<StartingPoint> RestoreOrInitialize(const TrainOptions& options,
                                                  const std::string& dataset_digest,
                                                  Minimind& model, AdamW& optimizer,
                                                  ProcessGroup& group, ProgressSink& sink);

}  // namespace mindforge
