#include "common/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace mindforge {
namespace {

absl::Duration SteadyNow() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

RealClock::RealClock() : start_(SteadyNow()) {}

absl::Time RealClock::Now() const { return absl::Now(); }

absl::Duration RealClock::MonotonicNow() const { return SteadyNow() - start_; }

}  // namespace mindforge
