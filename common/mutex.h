// Annotated mutex, lock and condition variable over std::mutex.
//
// Not absl::Mutex: the distribution's Abseil is not built with ThreadSanitizer, which therefore
// would not see its locks. Clang checks ABSL_GUARDED_BY and friends through these types.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace mindforge {

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }
  // Tells the analysis that the lock is held, where it cannot see it (a callback run under it).
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a Mutex for a scope.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// A condition variable for a Mutex. Each wait releases the mutex and holds it again on return.
// Waits without a predicate may return early for no reason.
//
// Clang's analysis does not look into lambdas: in a predicate call `mutex.AssertHeld()` first.
class CondVar {
 public:
  void Signal() { condition_.notify_one(); }
  void SignalAll() { condition_.notify_all(); }

  void Wait(Mutex& mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }

  template <typename Predicate>
  void Wait(Mutex& mutex, Predicate predicate) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    while (!predicate()) Wait(mutex);
  }

  // False when the time ran out (measured on the monotonic clock).
  bool WaitFor(Mutex& mutex, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (timeout > kLongest) {
      Wait(mutex);
      return true;
    }
    return WaitUntilSteady(mutex, std::chrono::steady_clock::now() + Chrono(timeout));
  }

  // The predicate's value on return: false means that the time ran out.
  template <typename Predicate>
  bool WaitFor(Mutex& mutex, absl::Duration timeout, Predicate predicate)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (timeout > kLongest) {
      Wait(mutex, predicate);
      return true;
    }
    const auto deadline = std::chrono::steady_clock::now() + Chrono(timeout);
    while (!predicate()) {
      if (!WaitUntilSteady(mutex, deadline)) return predicate();
    }
    return true;
  }

  // As WaitFor, up to a point of wall time as it stands now: a later jump of the wall clock does
  // not move it.
  bool WaitUntil(Mutex& mutex, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return WaitFor(mutex, deadline - absl::Now());
  }
  template <typename Predicate>
  bool WaitUntil(Mutex& mutex, absl::Time deadline, Predicate predicate)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return WaitFor(mutex, deadline - absl::Now(), predicate);
  }

 private:
  // Longer waits would overflow the clock's arithmetic and are as good as for ever.
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365);

  static std::chrono::nanoseconds Chrono(absl::Duration duration) {
    return absl::ToChronoNanoseconds(duration);
  }
  bool WaitUntilSteady(Mutex& mutex, std::chrono::steady_clock::time_point deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const std::cv_status status = condition_.wait_until(lock, deadline);
    lock.release();
    return status == std::cv_status::no_timeout;
  }

  std::condition_variable condition_;
};

}  // namespace mindforge
