#include "common/duration.h"

#include "absl/strings/str_cat.h"

namespace mindforge {

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  const std::string copy(text);
  absl::Duration duration;
  // Abseil takes "0" and "inf", both of which a person rarely means here.
  if (!absl::ParseDuration(copy, &duration) || duration == absl::InfiniteDuration() ||
      duration < absl::ZeroDuration() || copy.find_first_of("hmsun") == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", copy, "' is no duration; write a number with its unit, such as 30s, 5m or 1h30m"));
  }
  return duration;
}

std::string PrettyDuration(absl::Duration duration) {
  if (duration >= absl::Hours(1)) {
    duration = absl::Trunc(duration, absl::Minutes(1));
  } else if (duration >= absl::Minutes(1)) {
    duration = absl::Trunc(duration, absl::Seconds(1));
  } else if (duration >= absl::Seconds(1)) {
    duration = absl::Trunc(duration, absl::Milliseconds(100));
  } else if (duration >= absl::Milliseconds(1)) {
    duration = absl::Trunc(duration, absl::Milliseconds(1));
  }
  if (duration == absl::ZeroDuration()) return "0s";
  std::string text = absl::FormatDuration(duration);
  // "2h0m0s" says no more than "2h".
  for (const char* zero : {"m0s", "h0m"}) {
    const std::string suffix(zero);
    if (text.size() > suffix.size() && text.ends_with(suffix)) {
      text.resize(text.size() - 2);
    }
  }
  return text;
}

}  // namespace mindforge
