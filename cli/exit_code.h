// What the program's exit status means: a promise to scripts.
#pragma once

#include "absl/status/status.h"

namespace mindforge::cli {

enum class ExitCode {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,  // wrong command line, or a refused job file
  kNotFound = 3,
  kNotAllowed = 4,
  kUnavailable = 5,
  kJobFailed = 6,
  kJobCancelled = 7,
  kTimeout = 124,  // --timeout ran out
  kInterrupted = 130,
};

// `status` as a server's answer, or its silence: codes of local files mean something else. An OK
// status stays as it is.
absl::Status OfServer(absl::Status status);
bool IsOfServer(const absl::Status& status);

// The exit status that says `status`: kNotAllowed and kUnavailable are a server's alone.
// DEADLINE_EXCEEDED is kTimeout: calls that ran into a deadline that the user did not set are
// turned into UNAVAILABLE before (cli/rpc.h).
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace mindforge::cli
