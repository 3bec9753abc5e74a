// Values of the protos as short words for tables and lines.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge::cli {

// JOB_STATE_RUNNING -> "RUNNING"; a number that this build does not know is shown as it is.
std::string StateName(v1::JobState state);
Cell StateCell(v1::JobState state);
bool IsFinal(v1::JobState state);

// "1,234,567"
std::string Grouped(int64_t value);
// "12.3 MiB"
std::string Bytes(int64_t bytes);
// "4.6521"
std::string Loss(double loss);
// The names of the device's numerics, "a, b"; of an older agent's its signature.
std::string NumericsOf(const v1::Device& device);
// Age of a point in time: "3m12s", or "-" when it is not set.
std::string Age(const google::protobuf::Timestamp& time);
// "2026-01-31 14:05:06" in local time, or "-".
std::string Moment(const google::protobuf::Timestamp& time);
absl::Time ToTime(const google::protobuf::Timestamp& time);
absl::Duration ToDuration(const google::protobuf::Duration& duration);
// For people, two units at most: "2h5m", "3m12s", "8.4s".
std::string ShortDuration(absl::Duration duration);

}  // namespace mindforge::cli
