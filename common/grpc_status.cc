#include "common/grpc_status.h"

#include <string>

#include "absl/strings/cord.h"
#include "google/rpc/status.pb.h"

namespace mindforge {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  absl::Status full = status;
  if (!full.GetPayload(kErrorInfoUrl)) {
    const absl::Status reason = Error(status.code(), absl::StatusCodeToString(status.code()),
                                      std::string(status.message()));
    full.SetPayload(kErrorInfoUrl, *reason.GetPayload(kErrorInfoUrl));
  }
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(full.code()));
  wire.set_message(std::string(full.message()));
  full.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    auto* detail = wire.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
  return grpc::Status(static_cast<grpc::StatusCode>(full.code()), std::string(full.message()),
                      wire.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status wire;
  if (wire.ParseFromString(status.error_details())) {
    for (const auto& detail : wire.details()) {
      result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return result;
}

}  // namespace mindforge
