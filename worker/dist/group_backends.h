// How a group of two or more is made; for worker/dist's own files. Torch-free.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/dist/process_group.h"

namespace mindforge {

// UNAVAILABLE with reason PEER_LOST.
absl::Status PeerLost(std::string_view message);

// See ProcessGroup::Join. REQUIRES: world_size >= 2.
absl::StatusOr<std::unique_ptr<ProcessGroup>> JoinBackends(const ProcessGroupOptions& options);

}  // namespace mindforge
