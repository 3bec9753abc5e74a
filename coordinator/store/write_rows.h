// One batch's changes as SQL. Internal to this room.
#pragma once

#include "absl/status/status.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/store/sqlite.h"

namespace mindforge {

// REQUIRES: a transaction is open.
absl::Status WriteRows(Database& database, const sched::Changes& changes);

}  // namespace mindforge
