// Texts out of files for work in this process: JSON lines by `text`, plain text by the line, either
// compressed or not. What is no text is refused with its place, never repaired.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/app.h"
#include "worker/data/bad_lines.h"
#include "worker/data/data_files.h"
#include "worker/data/jsonl_reader.h"

namespace mindforge::cli {

struct TextFeedOptions {
  std::vector<std::string> paths;
  bool plain_text = false;  // a file whose name is not that of JSON lines is plain text
  bool skip_malformed = false;
  JsonlLimits limits;
};

// Adds --malformed-lines: `refuse` or `skip`, as the job file's data.malformed_lines.
void AddMalformedLines(CLI::App& command, std::string& flag);
// INVALID_ARGUMENT: neither.
absl::StatusOr<bool> SkipsMalformed(std::string_view flag);

// One after the other, in the files' order. Not thread-safe.
class TextFeed {
 public:
  // INVALID_ARGUMENT (--data): a path is not there, or a folder has no such file.
  static absl::StatusOr<TextFeed> Open(const TextFeedOptions& options);

  // The next text; none at the end. INVALID_ARGUMENT (--data): a malformed line, with its place.
  absl::StatusOr<std::optional<std::string>> Next();

  // Tells of the lines that were left out, by file.
  void NoteSkipped(Session& session) const;

 private:
  TextFeed(const TextFeedOptions& options, std::vector<DataFile> files)
      : options_(options), files_(std::move(files)) {}
  absl::Status OpenFile();
  // False when there is no line left.
  absl::StatusOr<bool> FillLines();
  absl::StatusOr<std::string> TextOf(const NumberedLine& line) const;

  TextFeedOptions options_;
  std::vector<DataFile> files_;
  size_t file_ = 0;
  std::unique_ptr<JsonlReader> reader_;  // of file_
  bool json_lines_ = true;               // file_
  std::vector<NumberedLine> lines_;
  size_t next_line_ = 0;
  BadLines skipped_;
};

}  // namespace mindforge::cli
