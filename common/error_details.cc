#include "common/error_details.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/utf8.h"
#include "google/rpc/error_details.pb.h"

namespace mindforge {
namespace {

void SetReason(absl::Status& status, std::string_view reason,
               const std::map<std::string, std::string>& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kErrorDomain);
  info.mutable_metadata()->insert(metadata.begin(), metadata.end());
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
}

}  // namespace

absl::Status Error(absl::StatusCode code, std::string_view reason, std::string_view message,
                   const std::map<std::string, std::string>& metadata) {
  absl::Status status(code, std::string(message));
  SetReason(status, reason, metadata);
  return status;
}

absl::Status InvalidArgument(const std::vector<FieldViolation>& violations,
                             std::string_view reason) {
  MF_CHECK(!violations.empty()) << "a refusal names at least one field";
  google::rpc::BadRequest bad_request;
  std::vector<std::string> lines;
  for (const FieldViolation& violation : violations) {
    auto* added = bad_request.add_field_violations();
    // A file's name may be any bytes; a payload with them would not be read again.
    added->set_field(SanitizeUtf8(violation.field));
    added->set_description(SanitizeUtf8(violation.description));
    lines.push_back(violation.field.empty()
                        ? violation.description
                        : absl::StrCat(violation.field, ": ", violation.description));
  }
  absl::Status status = absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
  SetReason(status, reason, {});
  status.SetPayload(kBadRequestUrl, absl::Cord(bad_request.SerializeAsString()));
  return status;
}

absl::Status InvalidArgument(std::string_view field, std::string_view description) {
  return InvalidArgument({{std::string(field), std::string(description)}});
}

std::string GetReason(const absl::Status& status) {
  const auto payload = status.GetPayload(kErrorInfoUrl);
  google::rpc::ErrorInfo info;
  if (!payload || !info.ParseFromString(std::string(*payload))) return "";
  return info.reason();
}

std::vector<FieldViolation> GetViolations(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const auto payload = status.GetPayload(kBadRequestUrl);
  google::rpc::BadRequest bad_request;
  if (!payload || !bad_request.ParseFromString(std::string(*payload))) return violations;
  for (const auto& violation : bad_request.field_violations()) {
    violations.push_back({violation.field(), violation.description()});
  }
  return violations;
}

}  // namespace mindforge
