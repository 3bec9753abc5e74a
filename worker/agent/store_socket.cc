#include "worker/agent/store_socket.h"

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace mindforge {

absl::StatusOr<ListeningSocket> BindStoreSocket(const std::string& advertise) {
  absl::StatusOr<ListeningSocket> socket = ListenTcp(advertise, 0);
  if (!socket.ok()) return Annotate(socket.status(), "--advertise");
  return socket;
}

absl::Status CheckAdvertise(const AgentOptions& options) {
  const std::string& advertise = options.advertise;
  constexpr char kRemedy[] =
      "; give --advertise an address or name of this machine that the other workers reach";
  if (advertise == "0.0.0.0" || advertise == "::") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--advertise ", advertise, " is no address that others can connect to", kRemedy));
  }
  if (const auto socket = ListenTcp(advertise, 0); !socket.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--advertise ", advertise, ": ", std::string(socket.status().message()), kRemedy));
  }
  const auto coordinator = ParseHostPort(options.coordinator);
  if (IsLoopback(advertise) && coordinator.ok() && !IsLoopback(coordinator->host)) {
    MF_LOG(WARNING) << "--advertise is " << advertise << ", which workers on other machines cannot "
                    << "reach: a job with ranks there and here will not start" << kRemedy;
  }
  return absl::OkStatus();
}

}  // namespace mindforge
