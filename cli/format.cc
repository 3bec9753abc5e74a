#include "cli/format.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace mindforge::cli {

std::string StateName(v1::JobState state) {
  const std::string name = v1::JobState_Name(state);
  if (name.empty()) return absl::StrCat(static_cast<int>(state));
  return std::string(absl::StripPrefix(name, "JOB_STATE_"));
}

Cell StateCell(v1::JobState state) {
  Style style = Style::kPlain;
  if (state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_RUNNING) style = Style::kGood;
  if (state == v1::JOB_STATE_FAILED) style = Style::kBad;
  if (state == v1::JOB_STATE_RESIZING || state == v1::JOB_STATE_PAUSED) style = Style::kWarn;
  return Cell(StateName(state), style);
}

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

std::string Grouped(int64_t value) {
  const std::string digits = absl::StrCat(value);
  const size_t first = value < 0 ? 1 : 0;
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

std::string Bytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
}

std::string Loss(double loss) { return absl::StrFormat("%.4f", loss); }

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::string ShortDuration(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (!std::isfinite(seconds)) return "-";
  if (seconds < 0.9995) return absl::StrFormat("%.0fms", std::max(0.0, seconds) * 1e3);
  if (seconds < 10) return absl::StrFormat("%.1fs", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return absl::StrCat(whole, "s");
  if (whole < 3600) return absl::StrCat(whole / 60, "m", whole % 60, "s");
  if (whole < 48 * 3600) return absl::StrCat(whole / 3600, "h", whole % 3600 / 60, "m");
  return absl::StrCat(whole / 86400, "d", whole % 86400 / 3600, "h");
}

std::string NumericsOf(const v1::Device& device) {
  std::vector<std::string> names;
  for (const v1::DeviceNumerics& numerics : device.numerics()) names.push_back(numerics.name());
  return names.empty() ? device.signature() : absl::StrJoin(names, ", ");
}

std::string Age(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  return ShortDuration(std::max(absl::ZeroDuration(), absl::Now() - ToTime(time)));
}

std::string Moment(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", ToTime(time), absl::LocalTimeZone());
}

}  // namespace mindforge::cli
