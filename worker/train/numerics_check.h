// Whether this rank computes with the numerics that its job is pinned to.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/train/train_options.h"

namespace mindforge {

// The name of this rank's arithmetic (common/training_numerics.h), of the kernels and libraries
// that it really has. When the order's pin, `device.signature`, means other bits the status is
// WorkerUnfit and says what to do; an empty pin agrees with all.
absl::StatusOr<std::string> CheckNumerics(const TrainDevice& device, TrainDtype dtype);

}  // namespace mindforge
