// A new file that is hashed while it is written. Knows nothing of what is in it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "worker/formats/safetensors.h"
#include "xxhash.h"

namespace mindforge {

// One thread at a time.
class DigestFile {
 public:
  // Creates or truncates.
  static absl::StatusOr<std::unique_ptr<DigestFile>> Create(const std::string& path);
  ~DigestFile();

  absl::Status Append(const void* data, size_t bytes);
  absl::Status Append(std::string_view text) { return Append(text.data(), text.size()); }
  // Makes it durable and says what it holds. The last call.
  absl::StatusOr<FileDigest> Finish();

 private:
  DigestFile(std::string path, UniqueFd fd);

  const std::string path_;
  UniqueFd fd_;
  XXH3_state_t* const hash_;
  int64_t bytes_ = 0;
};

// Writes the file `name` of `folder`, durably but for its name there; a sub-folder that `name`
// begins with is made.
absl::StatusOr<FileDigest> WriteFileOf(const std::string& folder, const std::string& name,
                                       std::string_view text);

// The digest of a file on disk, read in pieces. DATA_LOSS when the disk cannot read it.
absl::StatusOr<FileDigest> DigestOfFile(const std::string& path);

// 16 hexadecimal digits.
std::string HexDigest(uint64_t digest);

}  // namespace mindforge
