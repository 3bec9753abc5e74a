#include "common/logging.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/log_writer.h"
#include "google/protobuf/stubs/logging.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

// Some 20,000 lines: what a program says in minutes, and little beside what it holds otherwise.
constexpr size_t kMostWaitingBytes = 4 << 20;
constexpr absl::Duration kLastLines = absl::Seconds(1);

// The one place where a process-wide object is right: a process has one stderr.
struct LogState {
  std::string program;
  bool json = !isatty(STDERR_FILENO);
  std::atomic<LogSeverity> least{LogSeverity::kINFO};
  // Of programs. Without it (tests, the command line) lines are written by who logs them.
  std::unique_ptr<LogWriter> writer;
};

LogState& State() {
  // Never destroyed: threads may log while the process exits.
  static LogState& state = *new LogState;
  return state;
}

const char* SeverityName(LogSeverity severity) {
  switch (severity) {
    case LogSeverity::kINFO:
      return "info";
    case LogSeverity::kWARNING:
      return "warning";
    case LogSeverity::kERROR:
      return "error";
  }
  return "info";
}

std::string FormatLine(LogSeverity severity, std::string_view message) {
  const LogState& state = State();
  const absl::Time now = absl::Now();
  if (state.json) {
    const std::string timestamp =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", now, absl::UTCTimeZone());
    return FormatJsonLogLine(timestamp, severity, state.program, message) + "\n";
  }
  const std::string text = absl::StrReplaceAll(std::string(message), {{"\n", "\\n"}});
  return absl::StrFormat("%s %-7s %s\n", absl::FormatTime("%H:%M:%E3S", now, absl::LocalTimeZone()),
                         SeverityName(severity), text);
}

void WriteNow(std::string_view line) {
  while (!line.empty()) {
    const ssize_t wrote = ::write(STDERR_FILENO, line.data(), line.size());
    if (wrote < 0 && errno != EINTR) return;
    if (wrote > 0) line.remove_prefix(wrote);
  }
}

}  // namespace

void InitLogging(std::string_view program) {
  LogState& state = State();
  state.program = std::string(program);
  state.json = !isatty(STDERR_FILENO);
  // What protobuf has to say about a message its reader tells whoever sent it; on stderr its lines
  // would be no JSON.
  google::protobuf::SetLogHandler(nullptr);
  if (state.writer != nullptr) return;
  state.writer = std::make_unique<LogWriter>(STDERR_FILENO, kMostWaitingBytes, [](int64_t dropped) {
    return FormatLine(LogSeverity::kWARNING,
                      absl::StrCat(dropped, " log lines were dropped: stderr is read too slowly"));
  });
  std::atexit(FlushLog);
}

void FlushLog() {
  if (State().writer != nullptr) State().writer->Flush(kLastLines);
}

void SetMinLogSeverity(LogSeverity severity) { State().least = severity; }

std::string FormatJsonLogLine(std::string_view timestamp, LogSeverity severity,
                              std::string_view program, std::string_view message) {
  nlohmann::ordered_json line;
  line["ts"] = timestamp;
  line["level"] = SeverityName(severity);
  line["msg"] = message;
  line["program"] = program;
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void WriteLog(LogSeverity severity, std::string_view message) {
  LogState& state = State();
  if (severity < state.least.load(std::memory_order_relaxed)) return;
  std::string line = FormatLine(severity, message);
  if (state.writer != nullptr) {
    state.writer->Write(std::move(line));
  } else {
    WriteNow(line);
  }
}

}  // namespace mindforge
