#include "worker/dist/process_group.h"

#include <unistd.h>

#include <cstring>

#include "common/check.h"
#include "common/error_details.h"
#include "worker/dist/group_backends.h"

namespace mindforge {
namespace {

// A group of one: nothing to send, nobody to wait for.
class SoloGroup : public ProcessGroup {
 public:
  SoloGroup() : ProcessGroup(0, 1) {}

  absl::Status ExchangeHost(absl::Span<const Transfer> transfers, absl::Duration) override {
    MF_CHECK(transfers.empty()) << "a transfer in a group of one";
    return absl::OkStatus();
  }
  absl::Status ExchangeDevice(absl::Span<const Transfer> transfers,
                              absl::Duration timeout) override {
    return ExchangeHost(transfers, timeout);
  }
};

}  // namespace

absl::Status PeerLost(std::string_view message) {
  return Error(absl::StatusCode::kUnavailable, kPeerLost, message);
}

absl::StatusOr<std::unique_ptr<ProcessGroup>> ProcessGroup::Join(
    const ProcessGroupOptions& options) {
  MF_CHECK(options.rank >= 0 && options.rank < options.world_size)
      << "rank " << options.rank << " of " << options.world_size;
  if (options.world_size > 1) return JoinBackends(options);
  if (options.store_fd >= 0) close(options.store_fd);
  return std::make_unique<SoloGroup>();
}

bool IsPeerLost(const absl::Status& status) { return GetReason(status) == kPeerLost; }

absl::Status ProcessGroup::AllGather(const void* mine, void* all, int64_t bytes, uint32_t tag,
                                     absl::Duration timeout) {
  char* out = static_cast<char*>(all);
  std::memcpy(out + rank_ * bytes, mine, static_cast<size_t>(bytes));
  std::vector<Transfer> transfers;
  for (int peer = 0; peer < world_size_; ++peer) {
    if (peer == rank_) continue;
    transfers.push_back({.kind = Transfer::Kind::kReceive,
                         .peer = peer,
                         .tag = tag,
                         .data = out + peer * bytes,
                         .bytes = bytes});
    transfers.push_back({.kind = Transfer::Kind::kSend,
                         .peer = peer,
                         .tag = tag,
                         .data = out + rank_ * bytes,
                         .bytes = bytes});
  }
  return ExchangeHost(transfers, timeout);
}

std::vector<Transfer> ProcessGroup::BroadcastTransfers(void* data, int64_t bytes,
                                                       uint32_t tag) const {
  std::vector<Transfer> transfers;
  if (rank_ != 0) {
    transfers.push_back(
        {.kind = Transfer::Kind::kReceive, .peer = 0, .tag = tag, .data = data, .bytes = bytes});
    return transfers;
  }
  for (int peer = 1; peer < world_size_; ++peer) {
    transfers.push_back(
        {.kind = Transfer::Kind::kSend, .peer = peer, .tag = tag, .data = data, .bytes = bytes});
  }
  return transfers;
}

absl::Status ProcessGroup::BroadcastHost(void* data, int64_t bytes, uint32_t tag,
                                         absl::Duration timeout) {
  return ExchangeHost(BroadcastTransfers(data, bytes, tag), timeout);
}

absl::Status ProcessGroup::BroadcastDevice(void* data, int64_t bytes, uint32_t tag,
                                           absl::Duration timeout) {
  return ExchangeDevice(BroadcastTransfers(data, bytes, tag), timeout);
}

}  // namespace mindforge
