// Checkpoint folders that lie there without anybody having told of them: an agent or a coordinator
// was gone when they were written.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mindforge/v1/trainer.pb.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {

// Reads the folder back and describes it as its trainer would have reported it, except for `final`.
// DATA_LOSS or INVALID_ARGUMENT: it does not read back. FAILED_PRECONDITION: it is another job's.
// Others: it could not be read, here and now.
absl::StatusOr<v1::CheckpointWritten> DescribeCheckpoint(const std::string& job_id,
                                                         const CheckpointFolder& folder);

// Calls `found` with what each checkpoint in `dir` is that `wanted` wants, newest first; each is
// asked for just before it would be read. Fails when `dir` cannot be listed; a missing one has
// none.
using Found =
    std::function<void(const CheckpointFolder&, const absl::StatusOr<v1::CheckpointWritten>&)>;
absl::Status FindCheckpoints(const std::string& job_id, const std::string& dir,
                             const std::function<bool(const CheckpointFolder&)>& wanted,
                             const Found& found);

}  // namespace mindforge
