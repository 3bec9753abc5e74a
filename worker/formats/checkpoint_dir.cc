// A folder of checkpoints: names, listing, quarantine and removal.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdio>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/digest_file.h"
#include "worker/formats/manifest.h"

namespace mindforge {
namespace {

constexpr int kMaxQuarantined = 10'000;  // of one name
constexpr size_t kMaxManifestBytes = 1 << 20;

std::string HostName() {
  char name[HOST_NAME_MAX + 1] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

// A number without sign, leading zeros or anything behind it.
bool ParseNumber(std::string_view text, int64_t* out) {
  if (text.empty() || (text.size() > 1 && text[0] == '0') || text[0] == '-') return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return SyncDir(ParentOf(to));
  return ErrnoStatus(errno, "cannot rename", from);
}

std::string QuarantineName(const std::string& path) {
  return JoinPath(ParentOf(path), std::string(kQuarantinedPrefix) + NameOf(path));
}

}  // namespace

std::string ParentOf(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const size_t slash = path.find_last_of('/');
  if (slash == std::string_view::npos) return ".";
  return std::string(slash == 0 ? "/" : path.substr(0, slash));
}

std::string NameOf(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return std::string(path.substr(path.find_last_of('/') + 1));
}

std::string TemporaryFolderName(const std::string& name) {
  return absl::StrCat(std::string(kWritingPrefix), name, ".", HostName(), ".", ::getpid(), ".",
                      RandomId());
}

bool IsAbandoned(std::string_view name) {
  const size_t random = name.find_last_of('.');
  if (random == std::string_view::npos || random == 0) return false;
  const size_t pid_at = name.find_last_of('.', random - 1);
  int64_t pid = 0;
  if (pid_at == std::string_view::npos ||
      !ParseNumber(name.substr(pid_at + 1, random - pid_at - 1), &pid)) {
    return false;
  }
  if (!name.substr(0, pid_at).ends_with("." + HostName())) return false;
  return ::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH;
}

std::string CheckpointFolderName(int64_t step, int64_t generation) {
  return absl::StrCat("step-", step, ".g", generation);
}

bool ParseCheckpointFolderName(std::string_view name, int64_t* step, int64_t* generation) {
  constexpr std::string_view kStep = "step-";
  const size_t dot = name.find(".g");
  return name.starts_with(kStep) && dot != std::string_view::npos &&
         ParseNumber(name.substr(kStep.size(), dot - kStep.size()), step) &&
         ParseNumber(name.substr(dot + 2), generation);
}

absl::StatusOr<std::vector<CheckpointFolder>> ListCheckpoints(const std::string& dir) {
  std::vector<CheckpointFolder> folders;
  const absl::StatusOr<std::vector<std::string>> names = ListDir(dir);
  if (absl::IsNotFound(names.status())) return folders;
  RETURN_IF_ERROR(names.status());
  for (const std::string& name : *names) {
    CheckpointFolder folder{JoinPath(dir, name)};
    if (ParseCheckpointFolderName(name, &folder.step, &folder.generation) &&
        PathExists(JoinPath(folder.path, kManifestName))) {
      folders.push_back(std::move(folder));
    }
  }
  std::sort(folders.begin(), folders.end(),
            [](const CheckpointFolder& a, const CheckpointFolder& b) {
              return std::tie(a.step, a.generation) < std::tie(b.step, b.generation);
            });
  return folders;
}

absl::StatusOr<std::string> CheckpointDigest(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string manifest,
                   ReadFile(JoinPath(path, kManifestName), kMaxManifestBytes));
  return HexDigest(XXH3_64bits(manifest.data(), manifest.size()));
}

int64_t CheckpointBytes(const std::string& path) {
  const absl::StatusOr<std::vector<std::string>> names = ListDir(path);
  if (!names.ok()) return 0;
  int64_t bytes = 0;
  for (const std::string& name : *names) {
    struct stat file {};
    if (::stat(JoinPath(path, name).c_str(), &file) == 0) bytes += file.st_size;
  }
  return bytes;
}

bool WasQuarantined(const std::string& path) {
  return !PathExists(path) && PathExists(QuarantineName(path));
}

absl::StatusOr<std::string> QuarantineCheckpoint(const std::string& path) {
  const std::string base = QuarantineName(path);
  for (int n = 0; n < kMaxQuarantined; ++n) {
    std::string target = n == 0 ? base : absl::StrCat(base, ".", n);
    if (PathExists(target)) continue;
    const absl::Status status = Rename(path, target);
    if (absl::IsAlreadyExists(status)) continue;  // someone else took the name meanwhile
    RETURN_IF_ERROR(status);
    return target;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(base, ": too many quarantined folders; look at them and delete some"));
}

absl::Status RemoveCheckpoint(const std::string& path) {
  const std::string target = JoinPath(
      ParentOf(path), absl::StrCat(std::string(kRemovingPrefix), NameOf(path), ".", RandomId()));
  const absl::Status renamed = Rename(path, target);
  if (absl::IsNotFound(renamed)) return absl::OkStatus();
  RETURN_IF_ERROR(renamed);
  return RemoveTree(target);
}

absl::StatusOr<int> RemoveCheckpointLeftovers(const std::string& dir) {
  const absl::StatusOr<std::vector<std::string>> names = ListDir(dir);
  if (absl::IsNotFound(names.status())) return 0;
  RETURN_IF_ERROR(names.status());
  int removed = 0;
  for (const std::string& name : *names) {
    const bool writing = name.starts_with(kWritingPrefix) && IsAbandoned(name);
    if (!writing && !name.starts_with(kRemovingPrefix)) continue;
    RETURN_IF_ERROR(RemoveTree(JoinPath(dir, name)));
    ++removed;
  }
  return removed;
}

}  // namespace mindforge
