// Whether the folder at checkpoint.dir is the storage that the job's checkpoints are on, for all of
// its ranks: a host on which that is not mounted may well have a folder of this name.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/dist/process_group.h"
#include "worker/train/train_options.h"

namespace mindforge {

// Rank 0 calls it before the group forms. Makes the folder and its marker for a job that begins;
// for one that goes on it must be there, with at least one of its resume points, else the reason is
// WORKER_UNFIT; so it is when the folder of a job that has begun cannot be used here, or any job's
// for a reason that may pass. INVALID_ARGUMENT: a folder that a job cannot begin with. Returns the
// marker.
absl::StatusOr<std::string> OpenCheckpointStorage(const TrainOptions& options);

// All ranks call it. WORKER_UNFIT: this rank does not see rank 0's `marker` (of rank 0's alone).
absl::Status CheckSharedStorage(const TrainOptions& options, const std::string& marker,
                                ProcessGroup& group);

}  // namespace mindforge
