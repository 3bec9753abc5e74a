// Where time comes from. Whoever decides by time takes a Clock, so that tests can turn it by hand
// (tests/fakes/fake_clock.h).
#pragma once

#include "absl/time/time.h"

namespace mindforge {

// A source of wall and monotonic time. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  // Wall time: for people and records. May jump.
  virtual absl::Time Now() const = 0;
  // Time since some fixed start in this process: for leases and timeouts. Never goes back.
  virtual absl::Duration MonotonicNow() const = 0;
};

// The machine's clocks.
class RealClock : public Clock {
 public:
  RealClock();
  absl::Time Now() const override;
  absl::Duration MonotonicNow() const override;

 private:
  const absl::Duration start_;
};

}  // namespace mindforge
