#include "worker/agent/found_checkpoint.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace mindforge {

absl::StatusOr<v1::CheckpointWritten> DescribeCheckpoint(const std::string& job_id,
                                                         const CheckpointFolder& folder) {
  RETURN_IF_ERROR(VerifyCheckpoint(folder.path));
  ASSIGN_OR_RETURN(const CheckpointState state, ReadCheckpointState(folder.path));
  if (state.job_id != job_id) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is a checkpoint of job ", state.job_id, ", not of job ", job_id));
  }
  ASSIGN_OR_RETURN(const std::string digest, CheckpointDigest(folder.path));
  v1::CheckpointWritten written;
  written.set_step(folder.step);
  written.set_generation(folder.generation);
  written.set_path(folder.path);
  written.set_size_bytes(CheckpointBytes(folder.path));
  written.set_loss(state.loss);
  if (state.validation_loss) written.set_validation_loss(*state.validation_loss);
  written.set_manifest_digest(digest);
  return written;
}

absl::Status FindCheckpoints(const std::string& job_id, const std::string& dir,
                             const std::function<bool(const CheckpointFolder&)>& wanted,
                             const Found& found) {
  ASSIGN_OR_RETURN(const std::vector<CheckpointFolder> folders, ListCheckpoints(dir));
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
    if (wanted(*folder)) found(*folder, DescribeCheckpoint(job_id, *folder));
  }
  return absl::OkStatus();
}

}  // namespace mindforge
