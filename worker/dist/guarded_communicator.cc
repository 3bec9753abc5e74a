#include "worker/dist/guarded_communicator.h"

#include <pthread.h>

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "worker/dist/group_backends.h"

namespace mindforge {
namespace {

constexpr absl::Duration kPollInterval = absl::Microseconds(50);

// Runs what may never end. Nobody joins it: see this file's header.
void RunAside(const char* name, std::function<void()> work) {
  std::thread thread([name, work = std::move(work)] {
    pthread_setname_np(pthread_self(), name);
    work();
  });
  thread.detach();
}

// What the thread that forms a communicator tells; it may outlive who waits for it.
struct Formation {
  Mutex mutex;
  CondVar done;
  std::optional<absl::Status> result ABSL_GUARDED_BY(mutex);
};

std::string Text(const absl::Status& status) { return std::string(status.message()); }

}  // namespace

absl::StatusOr<std::unique_ptr<GuardedCommunicator>> GuardedCommunicator::Form(
    std::shared_ptr<Communicator> communicator, int rank, absl::Duration timeout) {
  const auto formation = std::make_shared<Formation>();
  RunAside("form-group", [communicator, formation] {
    absl::Status status = communicator->Form();
    MutexLock lock(formation->mutex);
    formation->result = std::move(status);
    formation->done.SignalAll();
  });
  std::unique_ptr<GuardedCommunicator> guarded(
      new GuardedCommunicator(std::move(communicator), rank));
  const RealClock clock;
  const absl::Duration deadline = clock.MonotonicNow() + timeout;
  std::optional<absl::Status> result;
  {
    MutexLock lock(formation->mutex);
    while (!formation->result.has_value() && clock.MonotonicNow() < deadline) {
      formation->done.WaitFor(formation->mutex, deadline - clock.MonotonicNow());
    }
    result = formation->result;
  }
  if (!result.has_value()) {
    return guarded->GiveUp(absl::StrCat("the ranks' devices were not connected within ",
                                        absl::FormatDuration(timeout)));
  }
  if (!result->ok()) {
    return guarded->GiveUp(
        absl::StrCat("the ranks' devices could not be connected: ", Text(*result)));
  }
  return guarded;
}

absl::Status GuardedCommunicator::Exchange(absl::Span<const Transfer> transfers,
                                           absl::Duration timeout) {
  if (given_up_) return PeerLost(absl::StrCat("rank ", rank_, ": the group was given up before"));
  std::vector<Transfer> started;
  for (const Transfer& transfer : transfers) {
    if (transfer.bytes > 0) started.push_back(transfer);
  }
  if (started.empty()) return absl::OkStatus();
  if (const absl::Status status = communicator_->Start(started); !status.ok()) {
    return GiveUp(Text(status));
  }
  return Await(timeout);
}

// The host waits here, since an update must not be put behind an exchange that may never end.
absl::Status GuardedCommunicator::Await(absl::Duration timeout) {
  const RealClock clock;
  const absl::Duration deadline = clock.MonotonicNow() + timeout;
  while (true) {
    const absl::StatusOr<bool> done = communicator_->Done();
    if (!done.ok()) return GiveUp(Text(done.status()));
    if (*done) break;
    if (clock.MonotonicNow() > deadline) {
      return GiveUp(absl::StrCat("an exchange took longer than ", absl::FormatDuration(timeout)));
    }
    MutexLock lock(poll_mutex_);
    poll_.WaitFor(poll_mutex_, kPollInterval);
  }
  const absl::Status ordered = communicator_->Order();
  return ordered.ok() ? ordered : GiveUp(Text(ordered));
}

absl::Status GuardedCommunicator::GiveUp(std::string_view what) {
  given_up_ = true;
  RunAside("abort-group", [communicator = communicator_] { communicator->Abort(); });
  return PeerLost(absl::StrCat("rank ", rank_, ": ", std::string(what)));
}

}  // namespace mindforge
