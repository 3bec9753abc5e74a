// Short lists inside rows, as JSON, and times as integers. Internal to this room.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace mindforge {

std::string MembersToJson(const std::vector<sched::MemberPlace>& members);
std::string WorldSizesToJson(const std::vector<sched::WorldSizeChange>& changes);
std::string NumericsToJson(const std::vector<sched::NumericsChange>& changes);
std::string DevicesToJson(const std::vector<sched::Device>& devices);

// DATA_LOSS: it is not what the functions above wrote.
absl::Status MembersFromJson(const std::string& text, std::vector<sched::MemberPlace>* members);
absl::Status WorldSizesFromJson(const std::string& text,
                                std::vector<sched::WorldSizeChange>* changes);
absl::Status NumericsFromJson(const std::string& text, std::vector<sched::NumericsChange>* changes);
absl::Status DevicesFromJson(const std::string& text, std::vector<sched::Device>* devices);

// Microseconds since 1970; 0 stands for InfinitePast, "not yet".
int64_t TimeToRow(absl::Time time);
absl::Time TimeFromRow(int64_t micros);

}  // namespace mindforge
