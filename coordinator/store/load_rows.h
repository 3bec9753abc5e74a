// The whole store as the scheduler's records. Internal to this room.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/scheduler/state.h"
#include "coordinator/store/sqlite.h"

namespace mindforge {

absl::StatusOr<sched::Snapshot> LoadRows(Database& database);

}  // namespace mindforge
