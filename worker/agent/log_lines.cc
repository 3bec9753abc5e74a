#include "worker/agent/log_lines.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/utf8.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

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
