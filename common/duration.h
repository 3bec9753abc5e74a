// Durations as people write them: "30s", "5m", "1h30m", "250ms".
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mindforge {

// INVALID_ARGUMENT without a unit, when negative or infinite, or when it is no duration.
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

// As ParseDuration reads it, rounded for people: "1h30m", "2m5s", "1.5s", "0s".
std::string PrettyDuration(absl::Duration duration);

}  // namespace mindforge
