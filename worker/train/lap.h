// A stopwatch for the parts of a step.
#pragma once

#include <utility>

#include "absl/time/time.h"
#include "common/clock.h"

namespace mindforge {

// Seconds since it was last asked. Borrows the clock.
class Lap {
 public:
  explicit Lap(const Clock& clock) : clock_(clock), last_(clock.MonotonicNow()) {}
  double operator()() {
    const absl::Duration now = clock_.MonotonicNow();
    return absl::ToDoubleSeconds(now - std::exchange(last_, now));
  }

 private:
  const Clock& clock_;
  absl::Duration last_;
};

}  // namespace mindforge
