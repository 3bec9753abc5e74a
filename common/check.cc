#include "common/check.h"

#include <cstdlib>

#include "common/log_writer.h"
#include "common/logging.h"

namespace mindforge::internal {

CheckFailure::CheckFailure(const char* file, int line, std::string_view what)
    : file_(file), line_(line) {
  stream_ << "CHECK failed: " << what << " ";
}

CheckFailure::~CheckFailure() {
  std::ostringstream line;
  line << file_ << ":" << line_ << ": " << stream_.str();
  WriteLog(LogSeverity::kERROR, line.str());
  FlushLog();
  std::abort();
}

std::unique_ptr<std::string> CheckOk(const absl::Status& status, const char* text) {
  if (ABSL_PREDICT_TRUE(status.ok())) return nullptr;
  std::ostringstream out;
  out << text << " is OK (" << status << ")";
  return std::make_unique<std::string>(out.str());
}

}  // namespace mindforge::internal
