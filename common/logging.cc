#include "common/logging.h"

#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace mindforge {
namespace {

// The one place where a process-wide object is right: a process has one stderr.
struct LogState {
  spdlog::logger logger{"mindforge", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  std::string program;
  bool json = !isatty(STDERR_FILENO);
  std::atomic<LogSeverity> least{LogSeverity::kINFO};

  LogState() {
    logger.set_pattern("%v");
    logger.set_level(spdlog::level::trace);
    logger.flush_on(spdlog::level::trace);
  }
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

}  // namespace

void InitLogging(std::string_view program) {
  State().program = std::string(program);
  State().json = !isatty(STDERR_FILENO);
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
  const absl::Time now = absl::Now();
  if (state.json) {
    const std::string timestamp =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", now, absl::UTCTimeZone());
    state.logger.info("{}", FormatJsonLogLine(timestamp, severity, state.program, message));
    return;
  }
  const std::string text = absl::StrReplaceAll(std::string(message), {{"\n", "\\n"}});
  state.logger.info("{} {:<7} {}", absl::FormatTime("%H:%M:%E3S", now, absl::LocalTimeZone()),
                    SeverityName(severity), text);
}

}  // namespace mindforge
