// Reads back and deletes checkpoint folders as the coordinator asks, and looks for some that it has
// not heard of, on a thread of its own: each can take as long as the storage likes.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "mindforge/v1/worker_agent_service.pb.h"
#include "worker/agent/supervisor.h"

namespace mindforge {

// Thread-safe. The destructor waits for the folder in work. Borrows the supervisor.
class Caretaker {
 public:
  // `on_done` runs on the caretaker's thread when there is something to tell.
  Caretaker(std::function<void()> on_done, Supervisor& supervisor);
  ~Caretaker();
  Caretaker(const Caretaker&) = delete;
  Caretaker& operator=(const Caretaker&) = delete;

  // Queues what is asked and not waiting or in work already: the coordinator repeats itself. Only
  // folders with a checkpoint's name are ever deleted. A deletion that fails is tried again after a
  // pause that grows from kFirstRetry to kLongestRetry.
  void Accept(const v1::SynchronizeResponse& response);

  // Queues a search of a job's folder for sound checkpoints that are newer than those known to the
  // supervisor, which is told of them.
  void Look(const std::string& job_id, const std::string& folder);

  // Queues a search for the newest sound checkpoint of each job that ran here before.
  void Adopt(const std::map<std::string, std::string>& folders_by_job);
  // Waits until those searches are done; false when the time ran out, which a hung storage may do.
  bool WaitUntilAdopted(absl::Duration timeout);

  // Puts what is done into `request`, and forgets it once the coordinator has it.
  void Fill(v1::SynchronizeRequest* request) const;
  void Delivered(const v1::SynchronizeRequest& request);

  static constexpr absl::Duration kFirstRetry = absl::Seconds(10);
  static constexpr absl::Duration kLongestRetry = absl::Minutes(5);

 private:
  struct Task {
    enum class Kind { kVerify, kDelete, kLook, kAdopt } kind = Kind::kVerify;
    std::string path;
    std::string job_id;  // kLook, kAdopt
    friend auto operator<=>(const Task&, const Task&) = default;
  };
  // When something that failed is tried again.
  struct Retry {
    absl::Duration at;
    absl::Duration pause;
  };

  void Run();
  void Do(const Task& task);
  void Verify(const std::string& path);
  void Delete(const Task& task);
  void LookFor(const Task& task);
  void Queue(Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts off the next try of `task`; returns for how long.
  absl::Duration PutOff(const Task& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Queues the deletions whose time has come; returns when the next one's does.
  absl::Duration QueueRetries() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A folder that a search found may be read now.
  bool MayRead(const Task& search, const std::string& path) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void()> on_done_;
  Supervisor& supervisor_;
  const RealClock clock_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  // Queued, in work, put off, or done and not delivered.
  std::set<Task> known_ ABSL_GUARDED_BY(mutex_);
  int adopting_ ABSL_GUARDED_BY(mutex_) = 0;  // of those, searches for jobs that ran before
  std::set<std::string> asked_deletions_ ABSL_GUARDED_BY(mutex_);  // by the newest response
  std::map<Task, Retry> retries_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> refused_ ABSL_GUARDED_BY(mutex_);   // for good; said once, not each time
  std::set<std::string> unlisted_ ABSL_GUARDED_BY(mutex_);  // folders; said once while it lasts
  std::vector<v1::VerifyResult> verified_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> deleted_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mindforge
