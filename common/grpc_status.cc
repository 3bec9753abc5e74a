#include "common/grpc_status.h"

#include <string>
#include <string_view>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/strings.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace mindforge {
namespace {

// A status travels in a call's trailers, of which gRPC takes 8 KiB unless told otherwise; a caller
// gets RESOURCE_EXHAUSTED and nothing else in place of more. So much may the text and the details
// come to on the wire.
constexpr size_t kMaxWireBytes = 7 << 10;
constexpr size_t kMaxMessageBytes = 1 << 10;     // as percent-encoded, when it has to be cut
constexpr size_t kMaxViolationsBytes = 3 << 10;  // serialized, likewise
constexpr size_t kMaxDescriptionBytes = 512;
constexpr size_t kMaxFieldBytes = 256;

// How gRPC writes a byte of a message: as it is or as %XX.
size_t EncodedBytes(char c) { return c >= ' ' && c <= '~' && c != '%' ? 1 : 3; }

std::string ShortMessage(std::string_view message) {
  size_t encoded = 0, bytes = 0;
  while (bytes < message.size() && encoded < kMaxMessageBytes) {
    encoded += EncodedBytes(message[bytes++]);
  }
  return Truncate(message, bytes);
}

// As many violations as there is room for, then how many more there are.
absl::Cord ShortViolations(const absl::Cord& payload) {
  google::rpc::BadRequest all, some;
  if (!all.ParseFromString(std::string(payload))) return absl::Cord();
  int kept = 0;
  for (const auto& violation : all.field_violations()) {
    auto* added = some.add_field_violations();
    added->set_field(Truncate(violation.field(), kMaxFieldBytes));
    added->set_description(Truncate(violation.description(), kMaxDescriptionBytes));
    if (some.ByteSizeLong() > kMaxViolationsBytes) {
      some.mutable_field_violations()->RemoveLast();
      break;
    }
    ++kept;
  }
  if (const int more = all.field_violations_size() - kept; more > 0) {
    some.add_field_violations()->set_description(absl::StrCat("and ", more, " more"));
  }
  return absl::Cord(some.SerializeAsString());
}

google::rpc::Status DetailsOf(const absl::Status& status) {
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    auto* detail = wire.add_details();
    detail->set_type_url(std::string(url));
    detail->set_value(std::string(payload));
  });
  return wire;
}

// Of the message, percent-encoded, and the details, in base64.
size_t WireBytes(const absl::Status& status, const google::rpc::Status& details) {
  size_t bytes = details.ByteSizeLong() * 4 / 3;
  for (const char c : status.message()) bytes += EncodedBytes(c);
  return bytes;
}

// The status with what a caller can be sent of it.
absl::Status Shortened(const absl::Status& status) {
  absl::Status cut(status.code(), ShortMessage({status.message().data(), status.message().size()}));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    cut.SetPayload(url, url == kBadRequestUrl ? ShortViolations(payload) : payload);
  });
  return cut;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  absl::Status full = status;
  if (!full.GetPayload(kErrorInfoUrl)) {
    const absl::Status reason = Error(status.code(), absl::StatusCodeToString(status.code()),
                                      std::string(status.message()));
    full.SetPayload(kErrorInfoUrl, *reason.GetPayload(kErrorInfoUrl));
  }
  google::rpc::Status wire = DetailsOf(full);
  if (WireBytes(full, wire) > kMaxWireBytes) {
    full = Shortened(full);
    wire = DetailsOf(full);
  }
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
