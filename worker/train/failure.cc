#include "worker/train/failure.h"

#include <new>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "worker/dist/process_group.h"
#include "worker/dist/step_commit.h"

namespace mindforge {

absl::Status WorkerUnfit(std::string_view message) {
  return Error(absl::StatusCode::kUnavailable, kWorkerUnfit, message);
}

FailureClass ClassifyFailure(const absl::Status& status) {
  if (IsPeerLost(status)) return FailureClass::kPeer;
  if (GetReason(status) == kOutOfMemory) return FailureClass::kOutOfMemory;
  if (GetReason(status) == kWorkerUnfit) return FailureClass::kWorker;
  // Ranks of one job see different files: which of them is wrong, none can tell.
  if (GetReason(status) == kRanksDisagree) return FailureClass::kWorker;
  if (absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status)) {
    return FailureClass::kUser;
  }
  return FailureClass::kInternal;
}

absl::Status BlameField(const absl::Status& status, std::string_view field) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kDataLoss:
      return InvalidArgument(field, std::string(status.message()));
    default:
      return Annotate(status, field);
  }
}

absl::Status StatusOfException(const std::exception& error, std::string_view what) {
  const std::string_view text = error.what();
  const std::string message =
      absl::StrCat(std::string(what), ": ", std::string(text.substr(0, text.find('\n'))));
  // LibTorch has a type of its own for CUDA's allocator and mere text for the CPU's.
  const bool out_of_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
                             absl::StrContains(message, "out of memory") ||
                             absl::StrContains(message, "can't allocate memory");
  if (!out_of_memory) return absl::InternalError(message);
  return Error(absl::StatusCode::kResourceExhausted, kOutOfMemory,
               absl::StrCat(message,
                            "; use a smaller microbatch_size or max_seq_len, or more "
                            "workers with larger devices"));
}

}  // namespace mindforge
