// Work on files in this process, which may take long and asks nobody: --timeout and Ctrl-C end it
// at any point, together with the process. What it was writing lies under temporary names, which
// the next writer there removes.
#pragma once

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "cli/session.h"
#include "common/mutex.h"

namespace mindforge::cli {

// While it lives the process ends with status 124 when --timeout runs out, and by the signal's own
// action on Ctrl-C. Owns a thread, since the work itself looks at no clock.
class LocalWork {
 public:
  // CANCELLED: Ctrl-C came before. REQUIRES: no call to the server is under way or follows.
  static absl::StatusOr<std::unique_ptr<LocalWork>> Begin(Session& session);
  ~LocalWork();
  LocalWork(const LocalWork&) = delete;
  LocalWork& operator=(const LocalWork&) = delete;

 private:
  explicit LocalWork(const Session& session);
  void EndProcessAtDeadline();

  const Session& session_;
  Mutex mutex_;
  CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watch_;
};

}  // namespace mindforge::cli
