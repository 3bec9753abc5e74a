// A file of lines in batches of whole ones, and what one line holds: a JSON object, its `text`, or
// plain text. It does not know tokens. The surprising choice: what is not UTF-8 is never repaired,
// since a text of replacement characters would be learned without a word.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/data/byte_source.h"
#include "xxhash.h"

namespace mindforge {

struct NumberedLine {
  int64_t number = 0;       // from 1
  std::string_view text;    // empty when too long
  size_t longer_than = 0;   // the limit in bytes when the line is above it
  std::string_view format;  // what the file looks like if not lines of text (GuessFormat), else ""
};

struct JsonlLimits {
  size_t block_bytes = size_t{4} << 20;  // read at once; about what a batch holds
  size_t max_line_bytes = size_t{256} << 20;
};

// Reads lines and hashes all bytes on the way, decompressed ones (see ByteSource). A byte order
// mark in front of the first line is no part of it. Memory: a block and the longest line. One
// thread at a time.
class JsonlReader {
 public:
  // Errors as ByteSource::Open.
  static absl::StatusOr<std::unique_ptr<JsonlReader>> Open(const std::string& path,
                                                           const JsonlLimits& limits = {});
  ~JsonlReader();

  // The next batch, without blank lines and valid until the next call; empty at the end. A line
  // above the limit is there by its number alone.
  absl::StatusOr<std::vector<NumberedLine>> NextBatch();

  // Of the file on disk.
  int64_t stored_bytes_read() const { return source_->stored_bytes_read(); }
  // XXH3-64 of the (decompressed) bytes read so far; of the whole file at the end.
  uint64_t digest() const { return XXH3_64bits_digest(hash_); }

 private:
  JsonlReader(std::unique_ptr<ByteSource> source, const JsonlLimits& limits);
  // Appends a block to the buffer; false at the end.
  absl::StatusOr<bool> ReadMore();
  // Drops what is in the buffer and the rest of that line.
  absl::Status DropLine();
  void CutLines(std::string_view whole, std::vector<NumberedLine>* lines);
  // Looks at what the file begins with, and drops a byte order mark.
  void LookAtBeginning();

  const std::unique_ptr<ByteSource> source_;
  const JsonlLimits limits_;
  XXH3_state_t* const hash_;
  std::string buffer_;
  size_t consumed_ = 0;  // of buffer_: lines already handed out
  int64_t lines_ = 0;
  std::string_view format_;
  bool looked_ = false;  // at the beginning
  bool finished_ = false;
  bool dropped_ = false;  // the buffer holds what follows an over-long line, whole lines perhaps
};

// What a line holds. INVALID_ARGUMENT: why it cannot be used, in words that fit behind "line 7: ".
absl::StatusOr<nlohmann::json> ObjectOfLine(const NumberedLine& line);
// The object's `text`.
absl::StatusOr<std::string> TextOfLine(const NumberedLine& line);
// The line itself, with a newline, where a file is plain text.
absl::StatusOr<std::string> PlainTextOfLine(const NumberedLine& line);

}  // namespace mindforge
