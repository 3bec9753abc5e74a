#include "worker/serve/exit_watchdog.h"

#include <pthread.h>
#include <unistd.h>

#include <utility>

#include "common/log_writer.h"
#include "common/logging.h"

namespace mindforge {

ExitWatchdog::ExitWatchdog(absl::Duration limit, std::string what)
    : limit_(limit), what_(std::move(what)), thread_([this] { Run(); }) {}

ExitWatchdog::~ExitWatchdog() {
  {
    MutexLock lock(mutex_);
    ended_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void ExitWatchdog::Run() {
  pthread_setname_np(pthread_self(), "exit-watchdog");
  MutexLock lock(mutex_);
  const bool ended = changed_.WaitFor(mutex_, limit_, [this] {
    mutex_.AssertHeld();
    return ended_;
  });
  if (ended) return;
  MF_LOG(ERROR) << what_ << " has not ended after " << absl::FormatDuration(limit_)
                << "; this process ends without it";
  // No destructors: they would wait for what hangs.
  FlushLog();
  ::_exit(1);
}

}  // namespace mindforge
