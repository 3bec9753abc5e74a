#include "common/durable_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"

namespace mindforge {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EEXIST:
    case ENOTEMPTY:
      return absl::StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

absl::Status WriteAll(int fd, std::string_view data, const std::string& path) {
  while (!data.empty()) {
    const ssize_t wrote = ::write(fd, data.data(), data.size());
    if (wrote < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "cannot write", path);
    }
    data.remove_prefix(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

absl::Status WriteAndSync(const std::string& path, std::string_view data) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot create", path);
  RETURN_IF_ERROR(WriteAll(fd.get(), data, path));
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "cannot sync", path);
  // Some file systems report a failed write only here.
  if (::close(fd.Release()) != 0) return ErrnoStatus(errno, "cannot close", path);
  return absl::OkStatus();
}

absl::Status Sync(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "cannot sync", path);
  return absl::OkStatus();
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

absl::Status ErrnoStatus(int error, std::string_view what, std::string_view path) {
  return absl::Status(CodeOf(error), absl::StrCat(std::string(what), " ", std::string(path), ": ",
                                                  std::strerror(error)));
}

absl::Status ReadErrnoStatus(int error, std::string_view path) {
  const absl::Status status = ErrnoStatus(error, "cannot read", path);
  return error == EIO ? absl::DataLossError(status.message()) : status;
}

absl::Status WriteFileDurably(const std::string& path, std::string_view data) {
  const std::string temporary = absl::StrCat(path, ".tmp-", RandomId());
  absl::Status status = WriteAndSync(temporary, data);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
    status = ErrnoStatus(errno, "cannot rename to", path);
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return SyncDir(FolderOf(path));
}

absl::Status SyncFile(const std::string& path) { return Sync(path, 0); }

absl::Status SyncDir(const std::string& path) { return Sync(path, O_DIRECTORY); }

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  std::string data;
  char chunk[1 << 16];
  while (true) {
    const ssize_t got = ::read(fd.get(), chunk, sizeof(chunk));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ReadErrnoStatus(errno, path);
    if (got == 0) return data;
    data.append(chunk, static_cast<size_t>(got));
    if (data.size() > max_bytes) {
      return absl::OutOfRangeError(
          absl::StrCat(path, " is longer than the ", max_bytes, " bytes that are read of it"));
    }
  }
}

absl::Status MakeDirs(const std::string& path) {
  std::vector<std::string> parents;  // of what is missing, the innermost first
  for (std::string at = path; !PathExists(at); at = parents.back()) {
    parents.push_back(FolderOf(at));
  }
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot make the folder", path);
  // A folder whose name is not on the disk takes what is synced inside it with it.
  for (auto parent = parents.rbegin(); parent != parents.rend(); ++parent) {
    RETURN_IF_ERROR(SyncDir(*parent));
  }
  return absl::OkStatus();
}

absl::Status RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot remove", path);
  return absl::OkStatus();
}

bool PathExists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) {
  DIR* const folder = ::opendir(path.c_str());
  if (folder == nullptr) return ErrnoStatus(errno, "cannot list", path);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  const int error = errno;
  ::closedir(folder);
  if (error != 0) return ErrnoStatus(error, "cannot list", path);
  std::sort(names.begin(), names.end());
  return names;
}

std::string JoinPath(std::string_view folder, std::string_view name) {
  if (folder.empty() || name.starts_with('/')) return std::string(name);
  const char* const slash = folder.ends_with('/') ? "" : "/";
  return std::string(folder) + slash + std::string(name);
}

}  // namespace mindforge
