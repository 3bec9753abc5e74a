// Removing what a deleted job leaves: its history may have millions of rows, so the transaction
// that deletes the job only marks it, and the rows go later, a few at a time.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "coordinator/store/sqlite.h"

namespace mindforge {

// Takes the job's own row away and marks the rest: no reader sees any of it from now on.
absl::Status MarkForPurge(Database& database, const JobId& job);

// Removes at most `rows` rows of what is marked. REQUIRES: within a transaction. True: there is
// more.
absl::StatusOr<bool> PurgeRows(Database& database, int rows);

}  // namespace mindforge
