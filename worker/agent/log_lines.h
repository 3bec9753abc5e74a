// Bytes that a trainer writes to stderr -> log lines.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "mindforge/v1/types.pb.h"

namespace mindforge {

inline constexpr size_t kMaxLogLineBytes = 8192;

// Our own JSON lines give level, time and text; anything else (a library's words) is taken as it
// stands, INFO, now.
v1::LogLine ParseLogLine(std::string_view line);

// A line of now.
v1::LogLine MakeLogLine(v1::LogLevel level, std::string_view text);

// Cuts a stream of bytes into lines; over-long ones are cut short, empty ones dropped.
class LineSplitter {
 public:
  explicit LineSplitter(std::function<void(std::string_view)> on_line)
      : on_line_(std::move(on_line)) {}
  void Add(std::string_view bytes);
  // The last line, when it has no newline.
  void Finish();

 private:
  const std::function<void(std::string_view)> on_line_;
  std::string line_;
};

}  // namespace mindforge
