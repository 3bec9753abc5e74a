// How long a rank waits for its peers: a multiple of what steps have taken lately, between a floor
// that forgives a stall of the machine and a ceiling that ends a wait for a hung peer. Pure.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace mindforge {

// Learns from measured steps. Not thread-safe.
class StepTimeout {
 public:
  static constexpr absl::Duration kFloor = absl::Seconds(30);
  static constexpr absl::Duration kCeiling = absl::Minutes(10);
  static constexpr double kFactor = 20;

  // `seconds`: this rank's last step as a whole, the waits for the others in it, so that it is the
  // slowest rank's as well. The longest lately counts; it fades over about thirty steps, so that
  // one slow step neither rules for ever nor is forgotten at once.
  void Measured(double seconds) { longest_ = std::max(seconds, longest_ * 0.97); }

  // The ceiling before the first measured step: it holds warm-up that nobody can foresee.
  absl::Duration Get() const {
    if (longest_ <= 0) return kCeiling;
    return std::clamp(absl::Seconds(longest_ * kFactor), kFloor, kCeiling);
  }

 private:
  double longest_ = 0;
};

}  // namespace mindforge
