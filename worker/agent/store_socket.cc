#include "worker/agent/store_socket.h"

#include "common/status_macros.h"

namespace mindforge {

absl::StatusOr<ListeningSocket> BindStoreSocket(const std::string& advertise) {
  absl::StatusOr<ListeningSocket> socket = ListenTcp(advertise, 0);
  if (!socket.ok() && !IsLoopback(advertise)) socket = ListenTcp("0.0.0.0", 0);
  if (!socket.ok()) return Annotate(socket.status(), "--advertise");
  return socket;
}

}  // namespace mindforge
