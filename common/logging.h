// MF_LOG(INFO|WARNING|ERROR) << ...: one line to stderr, text on a terminal, JSON lines otherwise
// ({"ts":…,"level":…,"msg":…,"program":…}). INFO: worth a line; WARNING: someone should look soon;
// ERROR: someone must act. Ids go first, secrets never.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

namespace mindforge {

enum class LogSeverity { kINFO, kWARNING, kERROR };

// Names the program in each line and chooses text or JSON by whether stderr is a terminal. Call
// once at the start of main; lines logged earlier carry no program.
void InitLogging(std::string_view program);

// Lines below `severity` are dropped. INFO by default.
void SetMinLogSeverity(LogSeverity severity);

// Writes one line; newlines inside become "\n". Thread-safe.
void WriteLog(LogSeverity severity, std::string_view message);

// The JSON line (without newline) that WriteLog writes when stderr is no terminal.
std::string FormatJsonLogLine(std::string_view timestamp, LogSeverity severity,
                              std::string_view program, std::string_view message);

namespace internal {

class LogMessage {
 public:
  explicit LogMessage(LogSeverity severity) : severity_(severity) {}
  ~LogMessage() { WriteLog(severity_, stream_.str()); }
  LogMessage(const LogMessage&) = delete;
  LogMessage& operator=(const LogMessage&) = delete;

  std::ostream& stream() { return stream_; }

 private:
  const LogSeverity severity_;
  std::ostringstream stream_;
};

}  // namespace internal
}  // namespace mindforge

#define MF_LOG(severity) \
  ::mindforge::internal::LogMessage(::mindforge::LogSeverity::k##severity).stream()
