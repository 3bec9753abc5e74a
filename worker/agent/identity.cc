#include "worker/agent/identity.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<Identity>> Identity::Open(const std::string& data_dir) {
  RETURN_IF_ERROR(MakeDirs(data_dir)) << "--data-dir";
  const std::string path = JoinPath(data_dir, "lock");
  UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock.valid()) return Annotate(ErrnoStatus(errno, "cannot open", path), "--data-dir");
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      return Annotate(ErrnoStatus(errno, "cannot lock", path), "--data-dir");
    return absl::AlreadyExistsError(
        absl::StrCat("another mindforge-worker uses ", data_dir,
                     "; stop it, or give this one a folder of its own with --data-dir"));
  }
  std::unique_ptr<Identity> identity(new Identity(data_dir, std::move(lock)));
  RETURN_IF_ERROR(identity->Load()) << "--data-dir " << data_dir;
  ASSIGN_OR_RETURN(identity->spool_file_, SpoolFile::Open(JoinPath(data_dir, "spool")));
  return identity;
}

absl::Status Identity::Load() {
  const std::string id_path = JoinPath(data_dir_, "worker-id");
  absl::StatusOr<std::string> id = ReadFile(id_path, kMaxFileBytes);
  if (absl::IsNotFound(id.status())) {
    id = absl::StrCat("w-", RandomId());
    RETURN_IF_ERROR(WriteFileDurably(id_path, *id + "\n"));
  }
  RETURN_IF_ERROR(id);
  worker_id_ = std::string(absl::StripAsciiWhitespace(*id));
  if (worker_id_.empty()) {
    return absl::DataLossError(absl::StrCat(id_path, " is empty; remove it to get a new id"));
  }
  const absl::StatusOr<std::string> jobs =
      ReadFile(JoinPath(data_dir_, "jobs.json"), kMaxFileBytes);
  if (absl::IsNotFound(jobs.status())) return absl::OkStatus();
  RETURN_IF_ERROR(jobs);
  const nlohmann::json parsed = nlohmann::json::parse(*jobs, nullptr, false);
  // Only a hint where to look: a broken one costs a search, nothing else.
  if (!parsed.is_object()) return absl::OkStatus();
  for (const auto& [job, dir] : parsed.items()) {
    if (dir.is_string()) jobs_before_[job] = dir.get<std::string>();
  }
  jobs_ = jobs_before_;
  return absl::OkStatus();
}

absl::Status Identity::SetJobs(const std::map<std::string, std::string>& jobs) {
  if (jobs == jobs_) return absl::OkStatus();
  RETURN_IF_ERROR(WriteFileDurably(JoinPath(data_dir_, "jobs.json"), nlohmann::json(jobs).dump()));
  jobs_ = jobs;
  return absl::OkStatus();
}

}  // namespace mindforge
