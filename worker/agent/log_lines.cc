#include "worker/agent/log_lines.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

// Bytes of the character that starts at text[i], 0 when none does.
size_t CharacterBytes(std::string_view text, size_t i) {
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char lead = byte(i);
  size_t bytes = 0;
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) bytes = 2;
  if (lead >= 0xE0 && lead <= 0xEF) bytes = 3;
  if (lead >= 0xF0 && lead <= 0xF4) bytes = 4;
  if (bytes == 0 || i + bytes > text.size()) return 0;
  for (size_t k = 1; k < bytes; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned char second = byte(i + 1);
  if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
      (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) {
    return 0;
  }
  return bytes;
}

void SetTime(absl::Time time, v1::LogLine& line) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  line.mutable_time()->set_seconds(seconds);
  line.mutable_time()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

v1::LogLevel LevelOf(const std::string& name) {
  if (name == "error") return v1::LOG_LEVEL_ERROR;
  return name == "warning" ? v1::LOG_LEVEL_WARNING : v1::LOG_LEVEL_INFO;
}

std::string TextOf(const nlohmann::json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

}  // namespace

std::string SanitizeUtf8(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t bytes = CharacterBytes(text, i);
    if (bytes == 0) {
      clean += '?';
      ++i;
    } else {
      clean.append(text.substr(i, bytes));
      i += bytes;
    }
  }
  return clean;
}

v1::LogLine ParseLogLine(std::string_view text) {
  if (text.starts_with('{')) {
    const nlohmann::json parsed = nlohmann::json::parse(text, nullptr, false);
    const std::string message = parsed.is_object() ? TextOf(parsed, "msg") : "";
    if (!message.empty()) {
      v1::LogLine line;
      absl::Time time;
      if (!absl::ParseTime(absl::RFC3339_full, TextOf(parsed, "ts"), &time, nullptr)) {
        time = absl::Now();
      }
      SetTime(time, line);
      line.set_level(LevelOf(TextOf(parsed, "level")));
      line.set_text(SanitizeUtf8(message));
      return line;
    }
  }
  return MakeLogLine(v1::LOG_LEVEL_INFO, text);
}

v1::LogLine MakeLogLine(v1::LogLevel level, std::string_view text) {
  v1::LogLine line;
  SetTime(absl::Now(), line);
  line.set_level(level);
  line.set_text(SanitizeUtf8(text));
  return line;
}

void LineSplitter::Add(std::string_view bytes) {
  for (const char c : bytes) {
    if (c == '\n') {
      Finish();
    } else if (line_.size() < kMaxLogLineBytes && c != '\r') {
      line_ += c;
    }
  }
}

void LineSplitter::Finish() {
  if (!line_.empty()) on_line_(line_);
  line_.clear();
}

}  // namespace mindforge
