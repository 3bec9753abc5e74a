// Transfers through a communicator whose calls may never return, as NCCL's may when a peer is gone.
// Forming it, and aborting it, happen on threads of their own; whoever asked waits for a time and
// goes on. It does not know NCCL, so that all of this is tested without a GPU. The surprising
// choice: a thread that hangs is left behind, since nothing can end it but its process, which ends
// without waiting for it (trainer_main.cc).
#pragma once

#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/mutex.h"
#include "worker/dist/process_group.h"

namespace mindforge {

// What moves device memory between ranks. Start, Done and Order are called on one thread, after
// Form.
class Communicator {
 public:
  virtual ~Communicator() = default;

  // Connects all ranks, so that no later call has to. May block for ever.
  virtual absl::Status Form() = 0;
  // Starts the transfers, of which none is empty.
  virtual absl::Status Start(absl::Span<const Transfer> transfers) = 0;
  // Whether those started last are done; an error: they failed. Never blocks, never aborts.
  virtual absl::StatusOr<bool> Done() = 0;
  // Puts what the device does next behind them. REQUIRES: they are done.
  virtual absl::Status Order() = 0;
  // Gives up, whatever another thread is blocked in. Called once, on a thread of its own. May block
  // for ever.
  virtual void Abort() = 0;
};

// One thread at a time. After an error it is of no more use.
class GuardedCommunicator {
 public:
  // PEER_LOST: the ranks were not connected within `timeout`, or could not be.
  static absl::StatusOr<std::unique_ptr<GuardedCommunicator>> Form(
      std::shared_ptr<Communicator> communicator, int rank, absl::Duration timeout);
  GuardedCommunicator(const GuardedCommunicator&) = delete;
  GuardedCommunicator& operator=(const GuardedCommunicator&) = delete;

  // Starts all transfers and waits for all; empty ones are left out. OK: everything is where it
  // belongs for what the device does next. PEER_LOST: it took longer than `timeout`, or failed; it
  // is being aborted then.
  absl::Status Exchange(absl::Span<const Transfer> transfers, absl::Duration timeout);

 private:
  GuardedCommunicator(std::shared_ptr<Communicator> communicator, int rank)
      : communicator_(std::move(communicator)), rank_(rank) {}
  absl::Status Await(absl::Duration timeout);
  // Aborts, and says PEER_LOST.
  absl::Status GiveUp(std::string_view what);

  const std::shared_ptr<Communicator> communicator_;
  const int rank_;
  bool given_up_ = false;
  Mutex poll_mutex_;
  CondVar poll_;  // never signalled: its wait with a timeout yields the core between two polls
};

}  // namespace mindforge
