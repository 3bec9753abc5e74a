// Errors that programs can read: an absl::Status that carries google.rpc.ErrorInfo (a reason in
// UPPER_SNAKE, domain "mindforge") and google.rpc.BadRequest (which field, and why) as payloads.
// common/grpc_status.h takes them over the wire.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace mindforge {

inline constexpr char kErrorDomain[] = "mindforge";
inline constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
inline constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

struct FieldViolation {
  std::string field;        // "training.learning_rate"
  std::string description;  // what the value is, why it cannot be, what could
  friend bool operator==(const FieldViolation&, const FieldViolation&) = default;
};

// An error with a reason such as "JOB_NOT_FOUND".
absl::Status Error(absl::StatusCode code, std::string_view reason, std::string_view message,
                   const std::map<std::string, std::string>& metadata = {});

// INVALID_ARGUMENT for one or more fields, reason INVALID_FIELD unless given. The message lists
// them all. REQUIRES: not empty.
absl::Status InvalidArgument(const std::vector<FieldViolation>& violations,
                             std::string_view reason = "INVALID_FIELD");
absl::Status InvalidArgument(std::string_view field, std::string_view description);

// What `status` carries; "" or empty when nothing.
std::string GetReason(const absl::Status& status);
std::vector<FieldViolation> GetViolations(const absl::Status& status);

}  // namespace mindforge
