// A point in time to give up at, on the monotonic clock: a jump of the wall clock does not move it.
#pragma once

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdint>

#include "absl/time/time.h"

namespace mindforge {

class Deadline {
 public:
  explicit Deadline(absl::Duration timeout) : at_(Now() + timeout) {}

  // Not below zero; infinite when the timeout was.
  absl::Duration Left() const { return std::max(absl::ZeroDuration(), at_ - Now()); }

  // As poll takes it: -1 for ever, and never a moment too early.
  int PollMilliseconds() const {
    const absl::Duration left = Left();
    if (left == absl::InfiniteDuration()) return -1;
    const int64_t whole = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
    return static_cast<int>(std::min<int64_t>(whole, INT_MAX));
  }

 private:
  static absl::Duration Now() {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }

  absl::Duration at_;
};

}  // namespace mindforge
