// The folder of the token caches: its lock files, by which one process of a host does the work that
// others wait for, and what it means when the folder fails.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "worker/data/progress_meter.h"

namespace mindforge {

// Waits for whoever holds the lock, telling `progress` so; it goes with its process. An invalid
// descriptor where the file system has no locks, which on some shared storage are each host's own:
// a lock spares work, and nothing may depend on it. Errors as ErrnoStatus.
absl::StatusOr<UniqueFd> TakeCacheLock(const std::string& path, const ProgressFunction& progress);

// An error of the folder, with a violation of data.cache_dir that says what to do. INVALID_ARGUMENT
// where a restart cannot cure it (not allowed, a path that cannot be a folder); others keep their
// code: a full disk is nobody's mistake in the job file.
absl::Status OfCacheDir(const absl::Status& status);

}  // namespace mindforge
