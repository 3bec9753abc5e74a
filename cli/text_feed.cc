#include "cli/text_feed.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/status_macros.h"

namespace mindforge::cli {

void AddMalformedLines(CLI::App& command, std::string& flag) {
  command
      .add_option("--malformed-lines", flag,
                  "What a line that is no text means: refuse (default) or skip")
      ->type_name("refuse|skip");
}

absl::StatusOr<bool> SkipsMalformed(std::string_view flag) {
  if (flag == "skip") return true;
  if (flag == "refuse") return false;
  return InvalidArgument("--malformed-lines",
                         absl::StrCat("'", std::string(flag), "' is neither refuse nor skip"));
}

absl::StatusOr<TextFeed> TextFeed::Open(const TextFeedOptions& options) {
  absl::StatusOr<std::vector<DataFile>> files = ListDataFiles(options.paths);
  if (!files.ok()) return InvalidArgument("--data", std::string(files.status().message()));
  return TextFeed(options, *std::move(files));
}

absl::Status TextFeed::OpenFile() {
  const std::string& path = files_[file_].path;
  json_lines_ = !options_.plain_text || NamesJsonLines(path);
  // JSON lines taken for plain text would give a vocabulary of braces and field names.
  if (!json_lines_ && WithoutCompression(path).size() < path.size() &&
      !WithoutCompression(path).ends_with(".txt")) {
    return InvalidArgument(
        "--data",
        absl::StrCat(path,
                     " is compressed and says not of what; name it .jsonl.gz or .jsonl.zst when it "
                     "holds JSON lines, .txt.gz or .txt.zst when it is plain text"));
  }
  absl::StatusOr<std::unique_ptr<JsonlReader>> reader = JsonlReader::Open(path, options_.limits);
  if (!reader.ok()) return InvalidArgument("--data", std::string(reader.status().message()));
  reader_ = *std::move(reader);
  return absl::OkStatus();
}

absl::StatusOr<bool> TextFeed::FillLines() {
  while (next_line_ == lines_.size()) {
    if (file_ == files_.size()) return false;
    if (reader_ == nullptr) RETURN_IF_ERROR(OpenFile());
    next_line_ = 0;
    auto lines = reader_->NextBatch();
    if (absl::IsInvalidArgument(lines.status())) {
      return InvalidArgument("--data", std::string(lines.status().message()));
    }
    RETURN_IF_ERROR(lines.status());
    lines_ = *std::move(lines);
    if (!lines_.empty()) break;
    reader_ = nullptr;
    ++file_;
  }
  return true;
}

absl::StatusOr<std::string> TextFeed::TextOf(const NumberedLine& line) const {
  if (json_lines_) return TextOfLine(line);
  if (line.number == 1 && ObjectOfLine(line).ok()) {
    return absl::InvalidArgumentError(
        "not plain text but a JSON object; name the file .jsonl when it holds JSON lines");
  }
  return PlainTextOfLine(line);
}

absl::StatusOr<std::optional<std::string>> TextFeed::Next() {
  while (true) {
    ASSIGN_OR_RETURN(const bool more, FillLines());
    if (!more) return std::optional<std::string>();
    const NumberedLine& line = lines_[next_line_++];
    absl::StatusOr<std::string> text = TextOf(line);
    if (text.ok()) return std::optional<std::string>(*std::move(text));
    const std::string& path = files_[file_].path;
    const std::string reason(text.status().message());
    if (!options_.skip_malformed) {
      return InvalidArgument(
          "--data", absl::StrCat(path, ", line ", line.number, ": ", reason,
                                 "; mend the line, or leave such lines out with --malformed-lines "
                                 "skip"));
    }
    skipped_.Add(path, 1, {{.number = line.number, .reason = reason}});
  }
}

void TextFeed::NoteSkipped(Session& session) const {
  for (const std::string& file : skipped_.PerFile()) {
    session.Note(absl::StrCat("warning: left out: ", file));
  }
}

}  // namespace mindforge::cli
