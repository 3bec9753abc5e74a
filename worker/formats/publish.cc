#include "worker/formats/publish.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint_names.h"

namespace mindforge {
namespace {

absl::Status Taken(const std::string& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path, " exists; choose another folder, or --overwrite"));
}

// As rename(2) with `flags` of renameat2; filesystems that know no flags rename as always.
int RenameWith(unsigned int flags, const std::string& from, const std::string& to) {
  const int renamed = ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
  if (renamed == 0 || (errno != EINVAL && errno != ENOSYS)) return renamed;
  return ::rename(from.c_str(), to.c_str());
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "cannot rename to", to);
}

// Where no exchange is to be had: two renames, between which a crash leaves the old folder under
// `aside`.
absl::Status RenameTwice(const std::string& temporary, const std::string& path,
                         const std::string& aside) {
  RETURN_IF_ERROR(Rename(path, aside));
  const absl::Status renamed = Rename(temporary, path);
  if (!renamed.ok()) RETURN_IF_ERROR(Rename(aside, path)) << renamed;
  return renamed;
}

}  // namespace

absl::Status PublishFile(const std::string& temporary, const std::string& path, bool replace) {
  if (RenameWith(replace ? 0 : RENAME_NOREPLACE, temporary, path) == 0) return absl::OkStatus();
  if (errno == EEXIST && !replace) return Taken(path);
  return ErrnoStatus(errno, "cannot rename to", path);
}

absl::Status PublishFolder(const std::string& temporary, const std::string& path, bool replace) {
  // rename(2) puts a folder over an empty one and refuses one that holds something.
  if (::rename(temporary.c_str(), path.c_str()) == 0) return SyncDir(ParentOf(path));
  if (errno != ENOTEMPTY && errno != EEXIST) return ErrnoStatus(errno, "cannot rename to", path);
  if (!replace) return Taken(path);
  std::string old = temporary;
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) != 0) {
    old = JoinPath(ParentOf(path),
                   absl::StrCat(std::string(kRemovingPrefix), NameOf(path), ".", RandomId()));
    RETURN_IF_ERROR(RenameTwice(temporary, path, old));
  }
  RETURN_IF_ERROR(SyncDir(ParentOf(path)));
  if (const absl::Status removed = RemoveTree(old); !removed.ok()) {
    MF_LOG(WARNING) << path << " is replaced, but what stood there before is left in " << old
                    << ": " << removed.message();
  }
  return absl::OkStatus();
}

}  // namespace mindforge
