// SIGTERM and SIGINT: the first asks for a clean stop, the second stops now, unless a program that
// talks with somebody takes SIGINT for itself.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace mindforge {

// The process's wish to stop. One per process, made early in main: it takes over SIGTERM and SIGINT
// and ignores SIGPIPE. Thread-safe. The second signal ends the process with 128 + its number.
class Shutdown {
 public:
  Shutdown();
  ~Shutdown();  // gives the signals back their default action
  Shutdown(const Shutdown&) = delete;
  Shutdown& operator=(const Shutdown&) = delete;

  bool requested() const;
  void Wait();
  // False when the time ran out first.
  bool WaitFor(absl::Duration timeout);

  // Runs `callback` once on Shutdown's own thread when a stop is asked for; at once, on the
  // caller's, when it already was. REQUIRES: `callback` does not block for long.
  void OnRequest(std::function<void()> callback);

  // From now on each SIGINT runs `callback` on Shutdown's own thread and is no wish to stop. Empty:
  // SIGINT asks for a stop again; no earlier callback runs any more when this returns.
  // REQUIRES: `callback` does not block for long and does not call this.
  void TakeInterrupts(std::function<void()> callback);

  // As if a signal had come.
  void Request();

 private:
  void Run();
  bool Interrupted();

  UniqueFd read_end_, write_end_;  // the handler writes a byte per signal
  mutable Mutex mutex_;
  CondVar changed_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::function<void()>> callbacks_ ABSL_GUARDED_BY(mutex_);
  Mutex interrupt_mutex_;  // held while the callback runs
  std::function<void()> on_interrupt_ ABSL_GUARDED_BY(interrupt_mutex_);
  std::thread thread_;  // waits for the handler's byte: callbacks cannot run in a handler
};

}  // namespace mindforge
