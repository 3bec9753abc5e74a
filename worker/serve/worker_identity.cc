#include "worker/serve/worker_identity.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/random_id.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr int kMostProcesses = 64;

}  // namespace

absl::StatusOr<WorkerIdentity> TakeWorkerIdentity(const std::string& data_dir) {
  RETURN_IF_ERROR(MakeDirs(data_dir)) << "data_dir";
  for (int i = 1; i <= kMostProcesses; ++i) {
    const std::string lock_path = JoinPath(data_dir, absl::StrCat("worker-", i, ".lock"));
    UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (lock.get() < 0) return ErrnoStatus(errno, "opening the worker's lock", lock_path);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) continue;
      return ErrnoStatus(errno, "locking the worker's id", lock_path);
    }
    const std::string id_path = JoinPath(data_dir, absl::StrCat("worker-", i, ".id"));
    const absl::StatusOr<std::string> known = ReadFile(id_path, 256);
    // A new id in place of one that cannot be read would make the coordinator see two workers.
    if (!known.ok() && !absl::IsNotFound(known.status())) {
      return Annotate(known.status(), "reading the worker's id");
    }
    WorkerIdentity identity{.lock = std::move(lock)};
    if (known.ok()) identity.id = std::string(absl::StripAsciiWhitespace(*known));
    if (identity.id.empty()) {
      identity.id = RandomId();
      RETURN_IF_ERROR(WriteFileDurably(id_path, identity.id + "\n"));
    }
    return identity;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all ", kMostProcesses, " worker ids in ", data_dir,
                   " are taken by running processes; give this one another data_dir (--data-dir)"));
}

}  // namespace mindforge
