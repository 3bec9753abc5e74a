#include "worker/agent/reconcile.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace mindforge {
namespace {

bool IsSame(const CurrentDevice& current, const v1::DesiredDevice& desired) {
  return !current.job_id.empty() && current.job_id == desired.job_id() &&
         current.generation == desired.start().generation() &&
         current.rank == desired.start().rank();
}

std::string InWords(const std::string& job_id, int64_t generation, int rank) {
  return absl::StrCat("job ", job_id, " generation ", generation, " rank ", rank);
}

std::string InWords(const CurrentDevice& current) {
  return InWords(current.job_id, current.generation, current.rank);
}

std::string InWords(const v1::DesiredDevice& desired) {
  return desired.job_id().empty()
             ? "nothing"
             : InWords(desired.job_id(), desired.start().generation(), desired.start().rank());
}

// What the right trainer, running, has still to be told.
void TellRunning(const CurrentDevice& current, const v1::DesiredDevice& desired,
                 std::vector<Action>& actions) {
  if (!current.joined && !desired.rendezvous().empty()) {
    actions.push_back({ActionKind::kJoin, current.device_id,
                       absl::StrCat(InWords(current), " meets at ", desired.rendezvous()),
                       desired});
  }
  if (desired.has_stop() && desired.stop().sequence() > current.stop_sequence) {
    actions.push_back({ActionKind::kStop, current.device_id,
                       absl::StrCat(InWords(current), " is to checkpoint and stop"), desired});
  }
}

void ReconcileDevice(const CurrentDevice& current, const v1::DesiredDevice& desired, bool draining,
                     std::vector<Action>& actions) {
  if (IsSame(current, desired)) {
    if (!current.exited && !current.killed) TellRunning(current, desired, actions);
    return;
  }
  if (!current.job_id.empty()) {
    const std::string reason =
        absl::StrCat(InWords(current), " is not wanted on ", current.device_id, " any more, ",
                     InWords(desired), " is");
    if (!current.exited) {
      if (!current.killed) {
        actions.push_back({ActionKind::kKill, current.device_id, reason, desired});
      }
      return;  // the device is free when the trainer is gone
    }
    actions.push_back({ActionKind::kForget, current.device_id, reason, desired});
  }
  if (!desired.job_id().empty() && !draining) {
    actions.push_back({ActionKind::kStart, current.device_id,
                       absl::StrCat(InWords(desired), " of ", desired.start().world_size(),
                                    " starts on ", current.device_id),
                       desired});
  }
}

}  // namespace

std::vector<Action> Reconcile(const std::vector<CurrentDevice>& current,
                              const google::protobuf::RepeatedPtrField<v1::DesiredDevice>& desired,
                              bool draining) {
  std::vector<Action> actions;
  for (const CurrentDevice& device : current) {
    for (const v1::DesiredDevice& wanted : desired) {
      if (wanted.device_id() == device.device_id) {
        ReconcileDevice(device, wanted, draining, actions);
        break;
      }
    }
  }
  return actions;
}

}  // namespace mindforge
