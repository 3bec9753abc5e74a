// What this process serves: loads the model it is told to, off the serving path, and puts it in the
// place of the one before without failing a request.
//
// Surprising choice: weights of the same shape and tokenizer go into the running engine
// (SwapModel); anything else gets an engine of its own, beside the old one until that one's
// requests have ended, so that a waiting request never meets a vocabulary it was not tokenized for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "mindforge/v1/inference_agent_service.pb.h"
#include "worker/infer/engine.h"
#include "worker/serve/served_model.h"

namespace mindforge {

// A model and the engine that runs it. Whoever holds one may go on using both.
struct Serving {
  std::shared_ptr<const ServedModel> model;
  std::shared_ptr<Engine> engine;
};

// What is served and what is not, for reports.
struct HostState {
  std::shared_ptr<const ServedModel> model;  // null: nothing
  bool draining = false;
  absl::Status failure;    // the device failed for good: nothing can be served
  std::string load_error;  // of the last load; empty after a success
  std::string load_error_version;
  EngineStats stats;  // over all engines
  int64_t slots = 0;
};

// Thread-safe.
class ModelHost {
 public:
  using Loader = std::function<absl::StatusOr<LoadedModel>(const v1::DesiredModel&)>;
  struct Options {
    const Clock* clock = nullptr;  // borrowed
    Loader loader;
    EngineOptions engine;
    EngineObserver* observer = nullptr;  // borrowed; may be null
    // After any change of State() but its figures; from any thread, with no lock held.
    std::function<void()> on_change;
    // A load that failed is tried again after so long, doubling up to the second.
    absl::Duration retry_after = absl::Seconds(5);
    absl::Duration retry_at_most = absl::Minutes(1);
  };

  explicit ModelHost(Options options);
  ~ModelHost();  // Stop()
  ModelHost(const ModelHost&) = delete;
  ModelHost& operator=(const ModelHost&) = delete;

  // Says what should be served; unset: nothing. Returns at once; the newest word counts.
  void SetDesired(std::optional<v1::DesiredModel> desired);

  // Waits until what was last desired is served (OK) or its load has failed (why).
  absl::Status WaitUntilSettled();

  const Clock& clock() const { return clock_; }

  // Null parts when nothing is served.
  Serving Current() const;
  HostState State() const;

  // Runs `callback` once, from any thread, when State().failure is set; at once when it is.
  void OnFailure(std::function<void()> callback);

  // Takes no more requests and waits for those accepted; DEADLINE_EXCEEDED when some still run.
  absl::Status Drain(absl::Duration timeout);
  // Ends all requests and threads. Idempotent.
  void Stop();

 private:
  struct Work {
    int64_t number = 0;  // which word of SetDesired; 0: only old engines to look at
    std::optional<v1::DesiredModel> desired;
  };

  void Run();
  // Waits for something to do; nullopt: stop.
  std::optional<Work> NextWork();
  bool DueLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Apply(const std::optional<v1::DesiredModel>& desired);
  absl::Status Load(const v1::DesiredModel& desired);
  absl::Status Install(LoadedModel loaded);
  void Settle(const Work& work, const absl::Status& status);
  // Waits until the engine can take another version.
  absl::Status WaitForRoom(const Engine& engine);
  void SetServing(Serving serving);
  void Fail(const absl::Status& status);
  void ReapRetired();

  const Options options_;
  const Clock& clock_;
  mutable Mutex mutex_;
  mutable CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_failure_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::DesiredModel> desired_ ABSL_GUARDED_BY(mutex_);
  int64_t desired_number_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t settled_number_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status settled_status_ ABSL_GUARDED_BY(mutex_);
  absl::Duration retry_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();  // monotonic
  absl::Duration retry_wait_ ABSL_GUARDED_BY(mutex_);
  std::string load_error_ ABSL_GUARDED_BY(mutex_);
  std::string load_error_version_ ABSL_GUARDED_BY(mutex_);
  Serving serving_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Engine>> retired_ ABSL_GUARDED_BY(mutex_);

  Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);  // loads; last, it uses all of the above
};

}  // namespace mindforge
