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
  absl::Duration last_seen;  // on the registry's clock, monotonic
};

// The live inference workers. Thread-safe. `clock` is borrowed.
class InferenceRegistry {
 public:
  // A worker whose last report is `lease` or more ago is gone.
  InferenceRegistry(const Clock& clock, absl::Duration lease) : clock_(clock), lease_(lease) {}

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

  const Clock& clock_;
  const absl::Duration lease_;
  mutable Mutex mutex_;
  std::map<WorkerId, InferenceWorker> workers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
