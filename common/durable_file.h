// Files that survive power loss, and the few file operations around them, with errno in words.
//
// Every call goes straight to POSIX, so that libfiu can make each fail.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mindforge {

// The status of a failed system call: "what path: No space left on device". ENOENT is NOT_FOUND,
// EEXIST ALREADY_EXISTS, EACCES/EPERM/EROFS PERMISSION_DENIED, ENOSPC/EDQUOT/EMFILE
// RESOURCE_EXHAUSTED, else UNAVAILABLE.
absl::Status ErrnoStatus(int error, std::string_view what, std::string_view path);

// The status of a failed read(2), likewise, but for EIO: DATA_LOSS, since the disk cannot give back
// what was written and another try will not help.
absl::Status ReadErrnoStatus(int error, std::string_view path);

// Replaces `path` by `data`: written beside it, synced, renamed, folder synced. OK: the new content
// is durable. On error the old content, if any, is in place.
absl::Status WriteFileDurably(const std::string& path, std::string_view data);

// Makes what was written to the file, or the names in the folder, durable.
absl::Status SyncFile(const std::string& path);
absl::Status SyncDir(const std::string& path);

// The whole file. OUT_OF_RANGE when it is longer than `max_bytes`, NOT_FOUND when it is not there,
// DATA_LOSS when the disk cannot read it.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// Makes the folder and those above it; OK when it is there already.
absl::Status MakeDirs(const std::string& path);

// Removes a file or folder with all that is in it; links are removed, not followed. OK when there
// was nothing.
absl::Status RemoveTree(const std::string& path);

bool PathExists(const std::string& path);

// Names in a folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path);

// "a/b"; an absolute `name` stands for itself.
std::string JoinPath(std::string_view folder, std::string_view name);

}  // namespace mindforge
