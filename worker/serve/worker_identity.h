// The id of an inference worker: stable over restarts, one per running process.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace mindforge {

// An id and the lock that keeps others from it as long as it lives.
struct WorkerIdentity {
  std::string id;
  UniqueFd lock;
};

// The first id in `data_dir` that no running process has, made where there is none: several
// inference workers started in one folder get ids of their own. RESOURCE_EXHAUSTED: 64 of them are
// running. Other errors name the file that cannot be made, locked or read.
absl::StatusOr<WorkerIdentity> TakeWorkerIdentity(const std::string& data_dir);

}  // namespace mindforge
