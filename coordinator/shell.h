// The shell around the scheduler: one mutex, one reading of the clock a step, one committer, one
// timer. It knows when things happen and who waits; what they mean is the scheduler's.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "coordinator/committer.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/reader.h"
#include "coordinator/rpc/core.h"
#include "coordinator/scheduler/state.h"
#include "coordinator/store/store.h"
#include "coordinator/subscriptions.h"

namespace mindforge {

// Thread-safe. Borrows what it is given. Stop before what its replies and its timer use goes.
class Shell : public Core {
 public:
  struct Options {
    sched::Settings settings;
    // After such a gap in its own life the shell takes itself, not its workers, for what was away.
    absl::Duration stall = absl::Seconds(2);
    absl::Duration timer_period = absl::Milliseconds(200);  // at least so often it looks
    size_t max_job_watches = 8'192;  // of calls; fewer than the server admits, so that others come
    size_t max_other_watches = 20'000;
    size_t max_reads = 20'000;  // of the store that wait for their turn
    // Told of jobs that changed durably or were deleted, on the committer's thread: be quick.
    std::function<void(const std::vector<JobId>&)> on_jobs_changed;
    // Told of a failed commit. The default logs one line and ends the process with status 1.
    std::function<void(const absl::Status&)> on_failure;
  };

  // Begins with what the store holds. `metrics` may be null.
  Shell(sched::Snapshot snapshot, Store& store, const Clock& clock, CoordinatorMetrics* metrics,
        Options options);
  ~Shell() override;

  void Do(const sched::Event& event, OnOutcome then) override;
  void View(OnState then) override;
  std::unique_ptr<Subscription> Watch(const JobId& job, std::function<void()> wake) override;
  std::unique_ptr<Subscription> Watch(const WorkerId& worker, std::function<void()> wake) override;
  bool Read(std::function<void()> read) override;
  absl::StatusOr<std::vector<StoredProgress>> ReadProgress(const JobId& job, int64_t after_step,
                                                           int limit) override;
  absl::StatusOr<std::vector<StoredLog>> ReadLogs(const JobId& job, int64_t after,
                                                  std::optional<int> rank, int limit) override;
  absl::StatusOr<std::vector<sched::JobEvent>> ReadEvents(const JobId& job) override;

  // Steps and lets `look` see the state at once, durable or not: for what nobody is promised.
  void DoNow(const sched::Event& event, const std::function<void(const sched::State&)>& look);
  void Peek(const std::function<void(const sched::State&, const sched::Now&)>& look);

  // Called on the committer's thread after a durable change of any inference worker's orders, of a
  // deployment or of what one may serve.
  std::unique_ptr<Subscription> WatchInference(std::function<void()> wake);

  // Ends the timer, makes durable what was done and says what is to be said of it. REQUIRES: nobody
  // but those replies calls any more. Idempotent; the destructor does it too.
  void Stop();

  // Starts the timer, which also runs `also`, without a lock. Tests call RunTimer instead.
  void StartTimer(std::function<void()> also);
  // What the timer does: a tick when something is due, a stall noticed.
  void RunTimer();

 private:
  sched::Outcome StepLocked(const sched::Event& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Steps, logs and measures.
  sched::Outcome Decide(const sched::Now& now, const sched::Event& event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Hands the outcome to the committer with what is to be said.
  void Commit(sched::Outcome outcome, Reply reply) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  sched::Now ReadClock() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TimerLoop(const std::function<void()>& also);

  Store& store_;
  const Clock& clock_;
  CoordinatorMetrics* const metrics_;
  const Options options_;
  const std::shared_ptr<Subscriptions> job_watches_;
  const std::shared_ptr<Subscriptions> other_watches_;

  Mutex mutex_;
  CondVar timer_changed_;
  sched::State state_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_now_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  absl::Duration last_alive_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;  // at the last step
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // Last: they call back into the above until they are gone.
  std::unique_ptr<Committer> committer_;
  Reader reader_;
  std::thread timer_;  // leases run out while nobody calls
};

}  // namespace mindforge
