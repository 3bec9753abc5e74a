// What the gRPC services ask of the coordinator's shell: do this, show me that, tell me when it
// changes. Handlers convert and call; they hold no state of the coordinator's.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/history.h"
#include "coordinator/scheduler/state.h"

namespace mindforge {

// A wish to be called after changes; it ends when this goes. The function may still be running then
// on another thread: let it hold a weak pointer to what it uses.
class Subscription {
 public:
  virtual ~Subscription() = default;
};

// Thread-safe. No method blocks for longer than a step of the scheduler takes, but for those that
// read the store.
class Core {
 public:
  virtual ~Core() = default;

  // Runs once what the caller was shown is durable, without any lock, on a thread that must not be
  // held up. Never runs when the store fails: the process ends.
  using Reply = std::function<void()>;
  // `state` may be read until the function returns, under the shell's lock: be quick.
  using OnOutcome = std::function<Reply(const sched::Outcome&, const sched::State&)>;
  using OnState = std::function<Reply(const sched::State&, const sched::Now&)>;

  // Steps the scheduler with `event`, shows `then` the outcome and runs its reply when durable.
  // When too much waits to be made durable, `then` sees RESOURCE_EXHAUSTED and nothing was done.
  virtual void Do(const sched::Event& event, OnOutcome then) = 0;

  // Shows the state.
  virtual void View(OnState then) = 0;

  // Calls `wake` after each durable change of the job (of the worker's desired state), soon, on a
  // thread that must not be held up. Null: there are too many already.
  virtual std::unique_ptr<Subscription> Watch(const JobId& job, std::function<void()> wake) = 0;
  virtual std::unique_ptr<Subscription> Watch(const WorkerId& worker,
                                              std::function<void()> wake) = 0;

  // Runs `read` soon on a thread that may be held up by the disk. False: too many wait already, and
  // it never runs.
  virtual bool Read(std::function<void()> read) = 0;

  // As Store's. REQUIRES: called from within Read.
  virtual absl::StatusOr<std::vector<StoredProgress>> ReadProgress(const JobId& job,
                                                                   int64_t after_step,
                                                                   int limit) = 0;
  virtual absl::StatusOr<std::vector<StoredLog>> ReadLogs(const JobId& job, int64_t after,
                                                          std::optional<int> rank, int limit) = 0;
  virtual absl::StatusOr<std::vector<sched::JobEvent>> ReadEvents(const JobId& job) = 0;
};

}  // namespace mindforge
