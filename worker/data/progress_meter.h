// How far a long pass over the data is, told a few times a second at most.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/time/time.h"
#include "common/clock.h"

namespace mindforge {

struct TokenCacheProgress {
  enum class Phase {
    kReading,     // for the digest
    kWaiting,     // for another process that builds this cache
    kTokenizing,  // building it
  };
  Phase phase = Phase::kReading;
  // Of the files on disk; 0 of 0 while waiting.
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
  double bytes_per_second = 0;  // since the phase began; 0: not known yet
};

using ProgressFunction = std::function<void(const TokenCacheProgress&)>;

// Measures one phase. Calls the function on the caller's thread. Borrows it.
class ProgressMeter {
 public:
  ProgressMeter(const ProgressFunction& tell, TokenCacheProgress::Phase phase,
                int64_t bytes_total = 0)
      : tell_(tell), progress_{.phase = phase, .bytes_total = bytes_total} {}

  // Tells when some time has passed since it last did.
  void Advance(int64_t bytes_done) {
    constexpr absl::Duration kPause = absl::Milliseconds(250);
    const absl::Duration now = clock_.MonotonicNow() - start_;
    progress_.bytes_done = bytes_done;
    if (now < told_ + kPause) return;
    Tell(now);
  }
  // Tells in any case.
  void Finish() { Tell(clock_.MonotonicNow() - start_); }

 private:
  void Tell(absl::Duration now) {
    told_ = now;
    const double seconds = absl::ToDoubleSeconds(now);
    if (seconds > 0) {
      progress_.bytes_per_second = static_cast<double>(progress_.bytes_done) / seconds;
    }
    if (tell_) tell_(progress_);
  }

  const ProgressFunction& tell_;
  TokenCacheProgress progress_;
  const RealClock clock_;
  const absl::Duration start_ = clock_.MonotonicNow();
  absl::Duration told_ = absl::ZeroDuration();
};

}  // namespace mindforge
