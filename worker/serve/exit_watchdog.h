// The limit on how long a process takes to end: a step that hangs in a device's driver can be
// neither cancelled nor joined.
#pragma once

#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/mutex.h"

namespace mindforge {

// Ends the process with status 1 and a log line unless it is destroyed within `limit`. Declare it
// before what might hang, so that it outlasts that one's destructor.
class ExitWatchdog {
 public:
  // `what` hangs, in the log line.
  ExitWatchdog(absl::Duration limit, std::string what);
  ~ExitWatchdog();
  ExitWatchdog(const ExitWatchdog&) = delete;
  ExitWatchdog& operator=(const ExitWatchdog&) = delete;

 private:
  void Run();

  const absl::Duration limit_;
  const std::string what_;
  Mutex mutex_;
  CondVar changed_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // waits beside a thread that may never return; last, uses all of the above
};

}  // namespace mindforge
