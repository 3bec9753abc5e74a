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
// DATA_LOSS: it does not read back. FAILED_PRECONDITION: it is another job's.
absl::StatusOr<v1::CheckpointWritten> DescribeCheckpoint(const std::string& job_id,
                                                         const CheckpointFolder& folder);

// The newest checkpoint in `dir` that reads back right; none: an empty path.
v1::CheckpointWritten FindNewestCheckpoint(const std::string& job_id, const std::string& dir);

// Calls `found` with what each checkpoint in `dir` is whose path `wanted` wants, newest first.
using Found =
    std::function<void(const std::string& path, const absl::StatusOr<v1::CheckpointWritten>&)>;
void FindCheckpoints(const std::string& job_id, const std::string& dir,
                     const std::function<bool(const std::string& path)>& wanted,
                     const Found& found);

}  // namespace mindforge
