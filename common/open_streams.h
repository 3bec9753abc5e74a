// The open streams of a server, so that a drain can end them and a caller that reads nothing is
// given up: its stream would otherwise hold its messages and its socket for as long as it likes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"

namespace mindforge {

class OpenStream {
 public:
  virtual ~OpenStream() = default;
  // The server stops: end, or go on to an end that is near.
  virtual void Drain() = 0;
  // Gives the caller up if a write has waited for it for `unread` or longer.
  virtual void Look(absl::Duration now, absl::Duration unread) = 0;
};

struct StreamLimits {
  // How long a message may wait for its reader. Shorter ends slow readers' streams more often,
  // which have to call again; longer keeps what abandoned ones hold.
  absl::Duration unread = absl::Seconds(30);
  // The same while the server drains: those who read take what is left, the others hold up nobody.
  absl::Duration unread_in_drain = absl::Milliseconds(250);
};

// Thread-safe. Holds streams weakly.
class OpenStreams {
 public:
  explicit OpenStreams(StreamLimits limits = {});
  ~OpenStreams();
  OpenStreams(const OpenStreams&) = delete;
  OpenStreams& operator=(const OpenStreams&) = delete;

  // Drains it at once when Drain has been called.
  int64_t Add(std::weak_ptr<OpenStream> stream);
  void Remove(int64_t key);
  // Drains each, once, and gives up callers that do not read soon. Idempotent.
  void Drain();

  absl::Duration Now() const { return clock_.MonotonicNow(); }

 private:
  void Run();

  const StreamLimits limits_;
  const RealClock clock_;
  Mutex mutex_;
  CondVar changed_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, std::weak_ptr<OpenStream>> streams_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // looks at the clock while nothing else happens. Last: uses all of it.
};

}  // namespace mindforge
