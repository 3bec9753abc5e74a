#include "worker/agent/found_checkpoint.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "xxhash.h"

namespace mindforge {
namespace {

constexpr size_t kMaxManifestBytes = 1 << 20;

int64_t FolderBytes(const std::string& path) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(path, error)) {
    const auto size = file.file_size(error);
    if (!error) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

std::vector<CheckpointFolder> List(const std::string& dir) {
  absl::StatusOr<std::vector<CheckpointFolder>> folders = ListCheckpoints(dir);
  if (folders.ok()) return *std::move(folders);
  MF_LOG(WARNING) << "cannot list the checkpoints in " << dir << ": " << folders.status();
  return {};
}

}  // namespace

absl::StatusOr<v1::CheckpointWritten> DescribeCheckpoint(const std::string& job_id,
                                                         const CheckpointFolder& folder) {
  RETURN_IF_ERROR(VerifyCheckpoint(folder.path));
  ASSIGN_OR_RETURN(const CheckpointState state, ReadCheckpointState(folder.path));
  if (state.job_id != job_id) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is a checkpoint of job ", state.job_id, ", not of job ", job_id));
  }
  ASSIGN_OR_RETURN(const std::string manifest,
                   ReadFile(JoinPath(folder.path, "MANIFEST.json"), kMaxManifestBytes));
  v1::CheckpointWritten written;
  written.set_step(folder.step);
  written.set_generation(folder.generation);
  written.set_path(folder.path);
  written.set_size_bytes(FolderBytes(folder.path));
  written.set_loss(state.loss);
  if (state.validation_loss) written.set_validation_loss(*state.validation_loss);
  written.set_manifest_digest(
      absl::StrFormat("%016x", XXH3_64bits(manifest.data(), manifest.size())));
  return written;
}

v1::CheckpointWritten FindNewestCheckpoint(const std::string& job_id, const std::string& dir) {
  const std::vector<CheckpointFolder> folders = List(dir);
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
    absl::StatusOr<v1::CheckpointWritten> written = DescribeCheckpoint(job_id, *folder);
    if (written.ok()) return *std::move(written);
    MF_LOG(WARNING) << folder->path << " is not taken up: " << written.status();
  }
  return {};
}

void FindCheckpoints(const std::string& job_id, const std::string& dir,
                     const std::function<bool(const std::string& path)>& wanted,
                     const Found& found) {
  const std::vector<CheckpointFolder> folders = List(dir);
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
    if (wanted(folder->path)) found(folder->path, DescribeCheckpoint(job_id, *folder));
  }
}

}  // namespace mindforge
