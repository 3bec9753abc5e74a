// Makes the outcomes of steps durable, in their order, many in one transaction, and speaks only
// then.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/store/store.h"

namespace mindforge {

// The queue between the shell and the store, with the one thread that writes. Thread-safe. Borrows
// what it is given. The destructor writes what waits and ends the thread.
class Committer {
 public:
  struct Options {
    size_t max_waiting = 20'000;  // steps; Full() beyond
    size_t max_batch = 2'000;     // steps in one transaction
    int purge_rows = 1'000;       // of deleted jobs, in one transaction
    // Told once of a failed commit; nothing is written or said any more. The program ends here.
    std::function<void(const absl::Status&)> on_failure;
    // Told how long each commit took.
    std::function<void(absl::Duration)> on_commit;
  };

  Committer(Store& store, const Clock& clock, Options options);
  ~Committer();
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // Hands over a step's changes; `spoken` runs on the committer's thread once they, and all handed
  // over before, are durable. REQUIRES: calls come in the order of the steps.
  void Enqueue(sched::Changes changes, std::function<void()> spoken);

  // Returns when nothing waits, what the replies themselves handed over included, or a commit
  // failed.
  void Drain();

  // True when all that was handed over is durable: what is seen now may be told at once.
  bool Idle() const;
  // Too much waits: refuse what people ask for.
  bool Full() const;
  // Since when the transaction in progress has been under way; infinite future: none is.
  absl::Duration BusySince() const;

 private:
  struct Item {
    sched::Changes changes;
    std::function<void()> spoken;
  };

  void Run();
  void Write(const std::vector<Item>& batch);
  // True: more is to be purged.
  bool Purge();
  void SetBusySince(absl::Duration since);

  Store& store_;
  const Clock& clock_;
  const Options options_;
  mutable Mutex mutex_;
  CondVar changed_;
  CondVar drained_;
  std::deque<Item> waiting_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration busy_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // commits wait for the disk: nobody else may
};

}  // namespace mindforge
