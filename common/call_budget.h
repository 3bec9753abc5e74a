// How much a server has in hand: calls, and the bytes of their requests. Beyond its limits new
// calls are refused, so that callers cannot drive it out of memory.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "common/mutex.h"

namespace mindforge {

// What a request of a service may come to at most, unless the service says otherwise.
inline constexpr size_t kMaxRequestBytes = size_t{4} << 20;

struct CallLimits {
  // Streams and parked calls count for as long as they last. A call costs some 20 KiB.
  size_t calls = 16'384;
  // Of requests, as they came in. A request is held once as a message and, where it is passed on,
  // once more on its way out: the process may come to three times as much.
  size_t bytes = size_t{128} << 20;
};

// Thread-safe.
class CallBudget {
 public:
  explicit CallBudget(CallLimits limits) : limits_(limits) {}

  // RESOURCE_EXHAUSTED (reason SERVER_BUSY) says which limit is reached. OK: call Done with the
  // same bytes when the call has ended.
  absl::Status Admit(size_t bytes);
  void Done(size_t bytes);

  size_t calls() const;
  size_t bytes() const;

 private:
  const CallLimits limits_;
  mutable Mutex mutex_;
  size_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mindforge
