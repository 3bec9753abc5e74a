#include "worker/data/jsonl_reader.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/data/text_guess.h"

namespace mindforge {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

absl::Status Unusable(const std::string& reason) { return absl::InvalidArgumentError(reason); }

// " (looks like gzip)", or nothing.
std::string Guess(std::string_view format) {
  return format.empty() ? "" : absl::StrCat(" (looks like ", std::string(format), ")");
}

// OK when the line's bytes can be text.
absl::Status CheckBytes(const NumberedLine& line) {
  if (line.longer_than > 0) {
    return Unusable(absl::StrCat("longer than ", line.longer_than, " bytes", Guess(line.format)));
  }
  const size_t nul = line.text.find('\0');
  const std::optional<size_t> bad = FirstNonUtf8(line.text);
  if (bad.has_value() && *bad < nul) {
    return Unusable(NotUtf8InWords(line.text, *bad, line.format));
  }
  if (nul == std::string_view::npos) return absl::OkStatus();
  // Text in UTF-16 without a mark is UTF-8 with a NUL in every other place.
  if (!line.format.empty()) return Unusable(NotUtf8InWords(line.text, nul, line.format));
  return Unusable(absl::StrCat("a NUL byte at offset ", nul,
                               ": no text, or a file that lost what was written last"));
}

// Which column of an editor the byte is in, from 1.
int64_t ColumnOf(std::string_view line, size_t byte) {
  int64_t column = 1;
  for (const char c : line.substr(0, byte)) column += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return column;
}

// The number that Python writes and JSON lacks, if the parser stopped at one. `at` is set to where
// it begins.
std::string_view NonFiniteNumber(std::string_view line, size_t* at) {
  constexpr std::string_view kNames[] = {"-Infinity", "Infinity", "-NaN", "NaN",
                                         "-inf",      "inf",      "nan"};
  for (size_t begin = *at - std::min<size_t>(*at, 2); begin <= *at; ++begin) {
    for (const std::string_view name : kNames) {
      if (!line.substr(begin).starts_with(name)) continue;
      *at = begin;
      return name;
    }
  }
  return "";
}

// Why the parser gave up. `byte`: the last one it read, from 1.
std::string SyntaxInWords(std::string_view line, size_t byte, std::string_view parser) {
  size_t at = std::min(byte > 0 ? byte - 1 : 0, line.size());
  const std::string_view number = NonFiniteNumber(line, &at);
  const std::string place = absl::StrCat("column ", ColumnOf(line, at), ": ");
  if (!number.empty()) {
    return absl::StrCat(place, std::string(number),
                        " is a number of Python's and not JSON's; write null, or leave it out");
  }
  if (parser.find("surrogate") != std::string_view::npos) {
    return absl::StrCat(place,
                        "half of a surrogate pair (\\ud800 to \\udfff alone) is no character");
  }
  // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error …; last read:
  // …": what was read last may be megabytes long.
  if (const size_t end = parser.find("column "); end != std::string_view::npos) {
    parser.remove_prefix(std::min(parser.size(), parser.find(": ", end) + 2));
  }
  return absl::StrCat(place, std::string(parser.substr(0, parser.find("; last read: '"))));
}

absl::StatusOr<nlohmann::json> ParseLine(const NumberedLine& line) {
  // The parser takes a NUL for the text's end. It checks UTF-8 itself, so that only lines that do
  // not parse pay for a look at their bytes.
  if (line.longer_than > 0 || line.text.find('\0') != std::string_view::npos) {
    return CheckBytes(line);
  }
  std::string reason;
  try {
    return nlohmann::json::parse(line.text);
  } catch (const nlohmann::json::parse_error& error) {
    reason = SyntaxInWords(line.text, error.byte, error.what());
  } catch (const nlohmann::json::exception& error) {
    reason = error.what();  // "[json.exception.out_of_range.406] number overflow parsing '1e999'"
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
  }
  RETURN_IF_ERROR(CheckBytes(line));
  return Unusable(absl::StrCat("not JSON", Guess(line.format), ": ", reason));
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
  size_t end = before;
  buffer_.resize(before + limits_.block_bytes);
  while (end < buffer_.size()) {
    ASSIGN_OR_RETURN(const size_t got, source_->Read(buffer_.data() + end, buffer_.size() - end));
    if (got == 0) break;
    end += got;
  }
  buffer_.resize(end);
  XXH3_64bits_update(hash_, buffer_.data() + before, end - before);
  return end > before;
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
      lines->push_back(
          {.number = lines_, .longer_than = limits_.max_line_bytes, .format = format_});
    } else if (!IsBlank(line)) {
      lines->push_back({.number = lines_, .text = line, .format = format_});
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
    if (!std::exchange(looked_, true)) LookAtBeginning();
    const size_t newline = std::string_view(buffer_).substr(from).rfind('\n');
    if (more && newline == std::string_view::npos) {
      if (buffer_.size() <= limits_.max_line_bytes) continue;
      lines.push_back(
          {.number = ++lines_, .longer_than = limits_.max_line_bytes, .format = format_});
      RETURN_IF_ERROR(DropLine());
      continue;
    }
    consumed_ = more ? from + newline + 1 : buffer_.size();
    CutLines(std::string_view(buffer_).substr(0, consumed_), &lines);
  }
  return lines;
}

void JsonlReader::LookAtBeginning() {
  format_ = GuessFormat(std::string_view(buffer_).substr(0, kGuessBytes));
  if (buffer_.starts_with(kByteOrderMark)) buffer_.erase(0, kByteOrderMark.size());
}

absl::StatusOr<nlohmann::json> ObjectOfLine(const NumberedLine& line) {
  ASSIGN_OR_RETURN(nlohmann::json json, ParseLine(line));
  if (json.is_object()) return json;
  return Unusable(absl::StrCat("not an object but ", json.type_name(), Guess(line.format)));
}

absl::StatusOr<std::string> TextOfLine(const NumberedLine& line) {
  ASSIGN_OR_RETURN(nlohmann::json json, ObjectOfLine(line));
  const auto text = json.find("text");
  if (text == json.end()) return Unusable("no field `text`");
  if (!text->is_string()) {
    return Unusable(absl::StrCat("`text` is not a string but ", text->type_name()));
  }
  auto& value = text->get_ref<std::string&>();
  if (value.empty()) return Unusable("`text` is empty");
  return std::move(value);
}

absl::StatusOr<std::string> PlainTextOfLine(const NumberedLine& line) {
  RETURN_IF_ERROR(CheckBytes(line));
  if (line.format == kJsonArray || line.format == kGitLfsPointer) {
    return Unusable(absl::StrCat("not plain text", Guess(line.format)));
  }
  return absl::StrCat(std::string(line.text), "\n");
}

}  // namespace mindforge
