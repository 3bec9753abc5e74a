// ZIP archives as PyTorch writes and reads them: stored (or, when read, deflated) entries, with the
// 64-bit records. The reader trusts nothing in the file and inflates no more than it is allowed to.
// It does not know what the entries mean.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/digest_file.h"

namespace mindforge {

struct ZipEntry {
  std::string name;
  bool deflated = false;
  uint32_t crc32 = 0;
  uint64_t stored_bytes = 0;  // in the archive
  uint64_t bytes = 0;         // once inflated
  uint64_t header_offset = 0;
};

// The directory of an archive in memory that outlives it. Immutable.
class ZipArchive {
 public:
  // DATA_LOSS: no ZIP archive, or one that is cut off or contradicts itself. INVALID_ARGUMENT:
  // encrypted or split archives and methods other than stored and deflate.
  static absl::StatusOr<ZipArchive> Parse(std::string_view archive);

  const std::vector<ZipEntry>& entries() const { return entries_; }
  // Null when there is none of that name.
  const ZipEntry* Find(std::string_view name) const;

  // An entry's bytes as they lie in the archive (compressed when deflated). DATA_LOSS: they are not
  // inside it.
  absl::StatusOr<std::string_view> Stored(const ZipEntry& entry) const;
  // A deflated entry's content, `entry.bytes` long. DATA_LOSS: it is another length.
  // REQUIRES: `to` has room for entry.bytes.
  absl::Status Inflate(const ZipEntry& entry, char* to) const;

 private:
  explicit ZipArchive(std::string_view archive) : archive_(archive) {}
  absl::Status ReadDirectory(uint64_t offset, uint64_t bytes, uint64_t count);

  std::string_view archive_;
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
};

// The CRC-32 of ZIP, of any length.
uint32_t Crc32(std::string_view bytes, uint32_t so_far = 0);

// Writes stored entries one after the other, each content at a multiple of 64 bytes.
class ZipWriter {
 public:
  // Creates or truncates.
  static absl::StatusOr<std::unique_ptr<ZipWriter>> Create(const std::string& path);

  absl::Status Add(const std::string& name, std::string_view content);
  // Writes the directory and syncs the file. The last call.
  absl::StatusOr<FileDigest> Finish();

 private:
  explicit ZipWriter(std::unique_ptr<DigestFile> file) : file_(std::move(file)) {}
  absl::Status Append(std::string_view bytes);

  const std::unique_ptr<DigestFile> file_;
  uint64_t offset_ = 0;
  std::vector<ZipEntry> entries_;
};

}  // namespace mindforge
