// The schema, as numbered steps from an empty file to what this program reads and writes. A step,
// once released, never changes: a change of the schema is a new step.
#pragma once

#include "absl/status/status.h"
#include "coordinator/store/sqlite.h"

namespace mindforge {

// The schema that this program reads and writes.
int SchemaVersion();

// Brings the database to a schema, each step in a transaction of its own.
// FAILED_PRECONDITION: a newer program has written it. DATA_LOSS: it cannot be read.
absl::Status Migrate(Database& database, int version = SchemaVersion());

}  // namespace mindforge
