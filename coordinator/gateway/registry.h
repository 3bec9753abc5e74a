// The inference workers that are alive, as they last described themselves. Kept in memory only:
// after a restart of the coordinator each worker's next Synchronize fills it again. It knows
// nothing of deployments' desired state; that is desired_models.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "mindforge/v1/inference_agent_service.pb.h"

namespace mindforge {

// One inference worker's last report.
struct InferenceWorker {
  WorkerId id;
  std::string name;
  std::string version;  // of its program
  std::string address;  // host:port that serves InferenceService
  std::string incarnation;
  std::string device;
  std::string deployment;       // what it serves now; empty: nothing
  std::string weights_version;  // of what it serves now
  std::string numerics_id;
  bool ready = false;
  bool draining = false;
  std::string load_error;          // why its last load failed; empty after a success
  std::string load_error_version;  // the weights version load_error is about
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  int64_t slots = 0;
  bool renders_tools = false;  // of chats, and reasoning; an earlier build does not
  absl::Duration last_seen;    // on the registry's own time
};

// The live inference workers. Thread-safe. `clock` is borrowed.
class InferenceRegistry {
 public:
  // A worker whose last report is `lease` or more ago is gone. Of a gap between two looks at the
  // registry only `stall` counts: in a longer one this process did not run, and no report could
  // have been taken. Somebody has to look more often than that.
  explicit InferenceRegistry(const Clock& clock, absl::Duration lease,
                             absl::Duration stall = absl::Seconds(2))
      : clock_(clock), lease_(lease), stall_(stall), last_look_(clock.MonotonicNow()) {}

  // Notes a report and returns the worker as it stands now. REQUIRES: worker_id is not empty.
  InferenceWorker Report(const v1::InferenceAgentServiceSynchronizeRequest& report);

  // Live workers in order of id.
  std::vector<InferenceWorker> Live() const;
  std::optional<InferenceWorker> Find(const WorkerId& id) const;

  // Forgets those whose lease ran out and returns them. Whoever decides what runs where calls this
  // from time to time.
  std::vector<InferenceWorker> Expire();

 private:
  bool Alive(const InferenceWorker& worker, absl::Duration now) const {
    return now - worker.last_seen < lease_;
  }

  // The time that this process has lived, as far as the registry saw it.
  absl::Duration OwnNow() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock& clock_;
  const absl::Duration lease_;
  const absl::Duration stall_;
  mutable Mutex mutex_;
  mutable absl::Duration last_look_ ABSL_GUARDED_BY(mutex_);
  mutable absl::Duration own_now_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  std::map<WorkerId, InferenceWorker> workers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
