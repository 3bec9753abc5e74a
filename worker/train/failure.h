// Why training ended: whose fault it is decides what the scheduler does about it.
#pragma once

#include <exception>
#include <string_view>

#include "absl/status/status.h"

namespace mindforge {

enum class FailureClass {
  kUser,         // a restart cannot cure it
  kPeer,         // the group is lost, not this trainer
  kInternal,     // anything else
  kOutOfMemory,  // of the device
  kWorker,       // this worker cannot as it is; another or a later start may
};

inline constexpr char kOutOfMemory[] = "OUT_OF_MEMORY";
inline constexpr char kWorkerUnfit[] = "WORKER_UNFIT";

// What the job needs is missing or cannot be read on this worker. The message says what, and where.
absl::Status WorkerUnfit(std::string_view message);

// INVALID_ARGUMENT and FAILED_PRECONDITION are the user's; reasons PEER_LOST, OUT_OF_MEMORY and
// WORKER_UNFIT (common/error_details.h) speak for themselves.
FailureClass ClassifyFailure(const absl::Status& status);

// `status` as the user's fault in one field of the job file, when a restart cannot cure it
// (something missing, wrong, not allowed or damaged); others stay as they are, with the field in
// front.
absl::Status BlameField(const absl::Status& status, std::string_view field);

// What LibTorch or the standard library threw, as a status: reason OUT_OF_MEMORY where memory ran
// out, else INTERNAL with the first line of its text.
absl::Status StatusOfException(const std::exception& error, std::string_view what);

}  // namespace mindforge
