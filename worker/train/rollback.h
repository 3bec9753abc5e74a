// Which checkpoint a rollback goes back to. The surprising choice: the newest of the schedule, a
// multiple of checkpoint.every_steps, and not one that a pause or a resize left between, so that
// the result does not depend on how often a job was moved. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {

// The complete folders in `dir` to try, in order, when `step` is to be left out: those of the
// schedule's newest step before it, then, should retention have removed these, whatever is older
// than `step`, newest first. None: back to where the job started.
absl::StatusOr<std::vector<CheckpointFolder>> RollbackPoints(const std::string& dir, int64_t step,
                                                             int64_t every_steps);

}  // namespace mindforge
