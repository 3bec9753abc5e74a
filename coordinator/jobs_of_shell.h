// The jobs that charts are drawn of, as the shell has them.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "coordinator/shell.h"
#include "coordinator/tracking/tracker.h"

namespace mindforge {

// Thread-safe. Borrows the place where the shell will be. REQUIRES: it is there when asked.
class JobsOfShell : public TrackedJobs {
 public:
  explicit JobsOfShell(const std::unique_ptr<Shell>& shell) : shell_(shell) {}

  std::optional<TrackedJob> Find(const JobId& id) const override {
    std::optional<TrackedJob> found;
    const auto durable = std::make_shared<Durable>();
    shell_->View([&](const sched::State& state, const sched::Now&) -> Core::Reply {
      const auto job = state.jobs.find(id);
      if (job != state.jobs.end()) found = Describe(job->second);
      return [durable] {
        MutexLock lock(durable->mutex);
        durable->is = true;
        durable->changed.SignalAll();
      };
    });
    MutexLock lock(durable->mutex);
    durable->changed.Wait(durable->mutex, [&] { return durable->is; });
    return found;
  }

  std::vector<TrackedJob> All() const override {
    std::vector<TrackedJob> all;
    shell_->Peek([&](const sched::State& state, const sched::Now&) {
      all.reserve(state.jobs.size());
      for (const auto& [id, job] : state.jobs) all.push_back(Describe(job));
    });
    return all;
  }

 private:
  struct Durable {
    Mutex mutex;
    CondVar changed;
    bool is = false;  // under mutex
  };

  static TrackedJob Describe(const sched::Job& job) {
    return {job.id,      job.wish.name, job.submitted_at,
            job.final(), job.max_step,  job.milestone_count};
  }

  const std::unique_ptr<Shell>& shell_;
};

}  // namespace mindforge
