// How a group of two or more is made; for worker/dist's own files. Torch-free.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/dist/process_group.h"

namespace mindforge {

// UNAVAILABLE with reason PEER_LOST.
absl::Status PeerLost(std::string_view message);

// LibTorch puts a C++ stack behind the first line of what it throws.
inline std::string FirstLine(const std::exception& error) {
  const std::string_view text = error.what();
  return std::string(text.substr(0, text.find('\n')));
}

// See ProcessGroup::Join. REQUIRES: world_size >= 2.
absl::StatusOr<std::unique_ptr<ProcessGroup>> JoinBackends(const ProcessGroupOptions& options);

}  // namespace mindforge
