// Which files make up a dataset, and what tells that one is as it was. It does not know lines.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mindforge {

// What changes when a file's content does. The device is left out: hosts number a shared one
// differently.
struct FileIdentity {
  int64_t bytes = 0;  // on disk
  int64_t modified_ns = 0;
  int64_t changed_ns = 0;  // nobody can set it back
  uint64_t inode = 0;

  bool operator==(const FileIdentity&) const = default;
};

struct DataFile {
  std::string path;
  FileIdentity identity;  // when it was listed
};

absl::StatusOr<FileIdentity> IdentityOf(const std::string& path);

// The name without .gz or .zst at its end.
std::string_view WithoutCompression(std::string_view name);

// Whether a file of this name holds JSON lines: *.jsonl, *.jsonl.gz, *.jsonl.zst.
bool NamesJsonLines(std::string_view name);

// Which files of a folder are a dataset's.
enum class FolderRule {
  kCurrent,
  kBeforeGzip,  // of builds that took no .gz of a folder, and a .zst whatever was beside it
};

// Each path's file, or the folder's files of JSON lines by name; folders in it and hidden files
// are left out, and so is a compressed file beside the plain one of its name, or a .gz beside its
// .zst (compressing and unpacking may leave both), which is logged. NOT_FOUND: a path is not there.
// INVALID_ARGUMENT: a folder without such files, or more than 100,000 of them.
absl::StatusOr<std::vector<DataFile>> ListDataFiles(const std::vector<std::string>& paths,
                                                    FolderRule rule = FolderRule::kCurrent);

int64_t StoredBytes(absl::Span<const DataFile> files);

// One file's digest for itself; for several, a digest of theirs in order. Names do not matter.
// REQUIRES: not empty.
uint64_t CombineDigests(absl::Span<const uint64_t> digests);

}  // namespace mindforge
