#include "worker/data/data_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "xxhash.h"

namespace mindforge {
namespace {

constexpr size_t kMaxFiles = 100'000;

FileIdentity IdentityOf(const struct stat& info) {
  constexpr int64_t kSecond = 1'000'000'000;
  return {.bytes = info.st_size,
          .modified_ns = info.st_mtim.tv_sec * kSecond + info.st_mtim.tv_nsec,
          .changed_ns = info.st_ctim.tv_sec * kSecond + info.st_ctim.tv_nsec,
          .inode = info.st_ino};
}

// Whether `names`, sorted, hold what the compressed file `name` was made of or was unpacked to:
// zstd keeps its source, gunzip -k and gzip -k do. A .gz stands behind the .zst of its name.
bool IsCopy(const std::vector<std::string>& names, std::string_view name) {
  const std::string plain(WithoutCompression(name));
  const auto there = [&](const std::string& other) {
    return std::binary_search(names.begin(), names.end(), other);
  };
  if (plain.size() == name.size()) return false;
  return there(plain) || (name.ends_with(".gz") && there(plain + ".zst"));
}

// Whether a file of a folder, `name` of its sorted `names`, is one of the dataset's.
bool IsTaken(const std::vector<std::string>& names, const std::string& name, FolderRule rule,
             const std::string& folder) {
  if (name.starts_with(".") || !NamesJsonLines(name)) return false;
  if (rule == FolderRule::kBeforeGzip) return !name.ends_with(".gz");
  if (!IsCopy(names, name)) return true;
  MF_LOG(WARNING) << JoinPath(folder, name)
                  << " is left out: a file that it is a compressed copy of lies beside it";
  return false;
}

absl::Status Add(const std::string& path, FolderRule rule, std::vector<DataFile>* files) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return ErrnoStatus(errno, "cannot stat", path);
    return absl::NotFoundError(
        absl::StrCat("no dataset ", path,
                     "; give a .jsonl, .jsonl.gz or .jsonl.zst file, or a folder of such files"));
  }
  if (!S_ISDIR(info.st_mode)) {
    files->push_back({path, IdentityOf(info)});
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(path));
  const size_t before = files->size();
  for (const std::string& name : names) {
    if (!IsTaken(names, name, rule, path)) continue;
    const std::string file = JoinPath(path, name);
    if (::stat(file.c_str(), &info) != 0) return ErrnoStatus(errno, "cannot stat", file);
    if (S_ISDIR(info.st_mode)) continue;
    files->push_back({file, IdentityOf(info)});
    if (files->size() > kMaxFiles) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " has more than ", kMaxFiles, " data files; join some of them"));
    }
  }
  if (files->size() > before) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the folder ", path,
                   " holds no .jsonl, .jsonl.gz or .jsonl.zst file (folders inside it do "
                   "not count); name them, or give the right folder"));
}

}  // namespace

absl::StatusOr<FileIdentity> IdentityOf(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
  return IdentityOf(info);
}

std::string_view WithoutCompression(std::string_view name) {
  for (const std::string_view suffix : {".gz", ".zst"}) {
    if (name.ends_with(suffix)) return name.substr(0, name.size() - suffix.size());
  }
  return name;
}

bool NamesJsonLines(std::string_view name) { return WithoutCompression(name).ends_with(".jsonl"); }

absl::StatusOr<std::vector<DataFile>> ListDataFiles(const std::vector<std::string>& paths,
                                                    FolderRule rule) {
  std::vector<DataFile> files;
  for (const std::string& path : paths) RETURN_IF_ERROR(Add(path, rule, &files));
  if (files.empty()) return absl::InvalidArgumentError("no dataset was given");
  return files;
}

int64_t StoredBytes(absl::Span<const DataFile> files) {
  int64_t bytes = 0;
  for (const DataFile& file : files) bytes += file.identity.bytes;
  return bytes;
}

uint64_t CombineDigests(absl::Span<const uint64_t> digests) {
  MF_CHECK(!digests.empty());
  if (digests.size() == 1) return digests[0];
  std::vector<uint8_t> bytes;
  bytes.reserve(digests.size() * sizeof(uint64_t));
  for (const uint64_t digest : digests) {
    for (int shift = 0; shift < 64; shift += 8)
      bytes.push_back(static_cast<uint8_t>(digest >> shift));
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace mindforge
