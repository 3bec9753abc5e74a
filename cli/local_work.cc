#include "cli/local_work.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "common/duration.h"

namespace mindforge::cli {

absl::StatusOr<std::unique_ptr<LocalWork>> LocalWork::Begin(Session& session) {
  if (session.interrupted()) return absl::CancelledError("interrupted");
  session.LeaveInterrupts();
  return std::unique_ptr<LocalWork>(new LocalWork(session));
}

LocalWork::LocalWork(const Session& session) : session_(session) {
  if (session.deadline() != absl::InfiniteFuture()) {
    watch_ = std::thread([this] { EndProcessAtDeadline(); });
  }
}

LocalWork::~LocalWork() {
  {
    MutexLock lock(mutex_);
    done_ = true;
    changed_.SignalAll();
  }
  if (watch_.joinable()) watch_.join();
}

void LocalWork::EndProcessAtDeadline() {
  MutexLock lock(mutex_);
  const bool done = changed_.WaitUntil(mutex_, session_.deadline(), [this] {
    mutex_.AssertHeld();
    return done_;
  });
  if (done) return;
  // Not through the session's stream, on which the work may be writing.
  const std::string message =
      absl::StrCat("mindforge: error: --timeout ", FormatDuration(session_.options.timeout),
                   " ran out\n  Give a longer --timeout, or none.\n");
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, message.data(), message.size());
  ::_exit(static_cast<int>(ExitCode::kTimeout));
}

}  // namespace mindforge::cli
