// A generation's group of ranks: memory to memory transfers between them, with timeouts. Gloo
// carries host memory and the votes, NCCL device memory. Torch-free, so that what waits on a group
// need not compile LibTorch. The surprising choice: no collectives, sends and receives only, since
// Gloo can give these up and the order of additions must be ours (reduction_tree.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace mindforge {

// Reason (common/error_details.h) of a status that says: the group is lost, not this process.
inline constexpr char kPeerLost[] = "PEER_LOST";

struct ProcessGroupOptions {
  int rank = 0;
  int world_size = 1;
  int64_t generation = 0;
  // Rank 0 alone: the listening socket of the group's store; the group takes it over.
  int store_fd = -1;
  // Other ranks: where the store listens.
  std::string store_host;
  int store_port = 0;
  // The name or address that the other ranks reach this one by.
  std::string advertise_host = "127.0.0.1";
  // CUDA device that device memory lies on, -1: the CPU.
  int cuda_device = -1;
  // How long the others may take to come; those that are there wait as long.
  absl::Duration arrival_timeout = absl::Minutes(5);
  // How long connecting may take: to the store, and to each other once all are there.
  absl::Duration join_timeout = absl::Minutes(5);
};

// One piece of memory to send to or receive from a peer. Transfers between two ranks match by tag
// and then in the order in which they were started.
struct Transfer {
  enum class Kind { kSend, kReceive };
  Kind kind = Kind::kSend;
  int peer = 0;
  uint32_t tag = 0;
  void* data = nullptr;
  int64_t bytes = 0;
};

// A member of the group. One thread uses it at a time. After an error it is of no more use: destroy
// it, or end the process.
class ProcessGroup {
 public:
  // Waits until all ranks are connected to each other. PEER_LOST when they are not within the
  // timeouts, or rank 0 went away; NOT_FOUND when the advertised host is none of this machine's.
  static absl::StatusOr<std::unique_ptr<ProcessGroup>> Join(const ProcessGroupOptions& options);
  virtual ~ProcessGroup() = default;
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  // Starts all transfers, then waits for all. Empty ones are skipped. OK: everything received is in
  // place and everything sent may be overwritten. UNAVAILABLE with reason PEER_LOST: a peer went
  // away or the time ran out.
  virtual absl::Status ExchangeHost(absl::Span<const Transfer> transfers,
                                    absl::Duration timeout) = 0;
  // As ExchangeHost, for memory on the group's device (the host when it is the CPU). On CUDA, all
  // transfers between two ranks match in order, whatever their tags.
  virtual absl::Status ExchangeDevice(absl::Span<const Transfer> transfers,
                                      absl::Duration timeout) = 0;

  // Puts each rank's `bytes` of `mine` beside each other in rank order. All ranks call it.
  absl::Status AllGather(const void* mine, void* all, int64_t bytes, uint32_t tag,
                         absl::Duration timeout);
  // Copies rank 0's bytes to all. All ranks call it. Host memory.
  absl::Status BroadcastHost(void* data, int64_t bytes, uint32_t tag, absl::Duration timeout);
  absl::Status BroadcastDevice(void* data, int64_t bytes, uint32_t tag, absl::Duration timeout);

 protected:
  ProcessGroup(int rank, int world_size) : rank_(rank), world_size_(world_size) {}

 private:
  std::vector<Transfer> BroadcastTransfers(void* data, int64_t bytes, uint32_t tag) const;

  const int rank_;
  const int world_size_;
};

// True when the status means that the group is lost, not this process.
bool IsPeerLost(const absl::Status& status);

}  // namespace mindforge
