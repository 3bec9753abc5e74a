// Errors as a person reads them: what, why, and what to do.
#pragma once

#include "absl/status/status.h"
#include "cli/session.h"

namespace mindforge::cli {

// Prints `status` to stderr: one line of what and why, one line a field violation, one of what to
// do where the code tells. REQUIRES: not OK.
void PrintError(Session& session, const absl::Status& status);

}  // namespace mindforge::cli
