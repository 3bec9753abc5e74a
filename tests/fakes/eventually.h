// Waiting for what a test cannot be told of.
#pragma once

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace mindforge {

// Polls a condition that another thread makes true; false when it did not within a minute.
inline bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  Mutex mutex;
  CondVar never;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    MutexLock lock(mutex);
    never.WaitFor(mutex, absl::Milliseconds(1));
  }
  return true;
}

}  // namespace mindforge
