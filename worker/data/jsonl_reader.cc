#include "worker/data/jsonl_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_parse.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

absl::StatusOr<nlohmann::json> ParseLine(std::string_view line) {
  absl::StatusOr<nlohmann::json> json = ParseJson(line, "not JSON");
  if (json.ok()) return json;
  // Only lines that do not parse pay for a look at their bytes.
  const std::string repaired = SanitizeUtf8(line);
  if (repaired != line) json = ParseJson(repaired, "not JSON");
  if (json.ok()) return json;
  // "parse error at line 1, column 5" would be taken for the file's first line.
  std::string reason(json.status().message());
  constexpr std::string_view kPlace = "parse error at line 1, ";
  if (const size_t at = reason.find(kPlace); at != std::string::npos) {
    reason.erase(at, kPlace.size());
  }
  return absl::InvalidArgumentError(reason);
}

}  // namespace

JsonlReader::JsonlReader(std::unique_ptr<ByteSource> source, const JsonlLimits& limits)
    : source_(std::move(source)), limits_(limits), hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_);
}

JsonlReader::~JsonlReader() { XXH3_freeState(hash_); }

absl::StatusOr<std::unique_ptr<JsonlReader>> JsonlReader::Open(const std::string& path,
                                                               const JsonlLimits& limits) {
  ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, ByteSource::Open(path));
  return std::unique_ptr<JsonlReader>(new JsonlReader(std::move(source), limits));
}

absl::StatusOr<bool> JsonlReader::ReadMore() {
  const size_t before = buffer_.size();
  buffer_.resize(before + limits_.block_bytes);
  ASSIGN_OR_RETURN(const size_t got, source_->Read(buffer_.data() + before, limits_.block_bytes));
  buffer_.resize(before + got);
  XXH3_64bits_update(hash_, buffer_.data() + before, got);
  return got > 0;
}

absl::Status JsonlReader::DropLine() {
  size_t newline = std::string::npos;
  while (newline == std::string::npos) {
    buffer_.clear();
    ASSIGN_OR_RETURN(const bool more, ReadMore());
    if (!more) return absl::OkStatus();
    newline = buffer_.find('\n');
  }
  buffer_.erase(0, newline + 1);
  dropped_ = true;
  return absl::OkStatus();
}

void JsonlReader::CutLines(std::string_view whole, std::vector<NumberedLine>* lines) {
  while (!whole.empty()) {
    const size_t newline = whole.find('\n');
    const std::string_view line = whole.substr(0, newline);
    ++lines_;
    if (line.size() > limits_.max_line_bytes) {
      lines->push_back({.number = lines_, .longer_than = limits_.max_line_bytes});
    } else if (!IsBlank(line)) {
      lines->push_back({.number = lines_, .text = line});
    }
    whole.remove_prefix(newline == std::string_view::npos ? whole.size() : newline + 1);
  }
}

absl::StatusOr<std::vector<NumberedLine>> JsonlReader::NextBatch() {
  std::vector<NumberedLine> lines;
  while (lines.empty() && !finished_) {
    buffer_.erase(0, consumed_);
    consumed_ = 0;
    // What is left over is a part of one line, but for what follows a dropped one.
    const size_t from = std::exchange(dropped_, false) ? 0 : buffer_.size();
    ASSIGN_OR_RETURN(const bool more, ReadMore());
    finished_ = !more;
    const size_t newline = std::string_view(buffer_).substr(from).rfind('\n');
    if (more && newline == std::string_view::npos) {
      if (buffer_.size() <= limits_.max_line_bytes) continue;
      lines.push_back({.number = ++lines_, .longer_than = limits_.max_line_bytes});
      RETURN_IF_ERROR(DropLine());
      continue;
    }
    consumed_ = more ? from + newline + 1 : buffer_.size();
    CutLines(std::string_view(buffer_).substr(0, consumed_), &lines);
  }
  return lines;
}

absl::StatusOr<std::string> TextOfLine(const NumberedLine& line) {
  if (line.longer_than > 0) {
    return absl::InvalidArgumentError(absl::StrCat("longer than ", line.longer_than, " bytes"));
  }
  ASSIGN_OR_RETURN(nlohmann::json json, ParseLine(line.text));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat("not an object but ", json.type_name()));
  }
  const auto text = json.find("text");
  if (text == json.end()) return absl::InvalidArgumentError("no field `text`");
  if (!text->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat("`text` is not a string but ", text->type_name()));
  }
  auto& value = text->get_ref<std::string&>();
  if (value.empty()) return absl::InvalidArgumentError("`text` is empty");
  return std::move(value);
}

}  // namespace mindforge
