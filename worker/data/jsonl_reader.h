// A jsonl file in batches of whole lines, and the text of one line. It does not know tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "xxhash.h"

namespace mindforge {

struct NumberedLine {
  int64_t number = 0;  // from 1
  std::string_view text;
};

// Reads lines and hashes all bytes on the way. One thread at a time.
class JsonlReader {
 public:
  static absl::StatusOr<std::unique_ptr<JsonlReader>> Open(const std::string& path);
  ~JsonlReader();

  // XXH3-64 of a file's bytes.
  static absl::StatusOr<uint64_t> DigestOf(const std::string& path);

  // The next batch, without blank lines and valid until the next call; empty at the end.
  // INVALID_ARGUMENT: a line longer than 256 MiB.
  absl::StatusOr<std::vector<NumberedLine>> NextBatch();

  int64_t bytes_read() const { return bytes_read_; }
  int64_t bytes_total() const { return bytes_total_; }
  // XXH3-64 of what was read so far; of the whole file at the end.
  uint64_t digest() const { return XXH3_64bits_digest(hash_); }

 private:
  JsonlReader(std::string path, UniqueFd fd, int64_t bytes_total);
  absl::Status ReadMore();
  // Fills the buffer until it holds whole lines, and says how many bytes they take.
  absl::StatusOr<size_t> ReadWholeLines();

  const std::string path_;
  UniqueFd fd_;
  const int64_t bytes_total_;
  XXH3_state_t* const hash_;
  std::string buffer_;
  size_t consumed_ = 0;  // of buffer_: lines already handed out
  int64_t bytes_read_ = 0;
  int64_t lines_ = 0;
  bool at_end_ = false;
};

// The `text` of a line's object. INVALID_ARGUMENT: why the line cannot be used.
absl::StatusOr<std::string> TextOfLine(std::string_view line);

}  // namespace mindforge
