// Reads back and deletes checkpoint folders as the coordinator asks, and looks for some that it has
// not heard of, on a thread of its own: each can take as long as the storage likes.
#pragma once

#include <deque>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "mindforge/v1/worker_agent_service.pb.h"
#include "worker/agent/supervisor.h"

namespace mindforge {

// Thread-safe. The destructor waits for the folder in work. Borrows the supervisor.
class Caretaker {
 public:
  // `on_done` runs on the caretaker's thread after each folder.
  Caretaker(std::function<void()> on_done, Supervisor& supervisor);
  ~Caretaker();
  Caretaker(const Caretaker&) = delete;
  Caretaker& operator=(const Caretaker&) = delete;

  // Queues what is asked and not waiting or in work already: the coordinator repeats itself. Only
  // folders with a checkpoint's name are ever deleted.
  void Accept(const v1::SynchronizeResponse& response);

  // Queues a search of a job's folder for sound checkpoints that are new to the supervisor, which
  // is told of them.
  void Look(const std::string& job_id, const std::string& folder);

  // Puts what is done into `request`, and forgets it once the coordinator has it.
  void Fill(v1::SynchronizeRequest* request) const;
  void Delivered(const v1::SynchronizeRequest& request);

 private:
  struct Task {
    enum class Kind { kVerify, kDelete, kLook } kind = Kind::kVerify;
    std::string path;
    std::string job_id;  // kLook
    friend auto operator<=>(const Task&, const Task&) = default;
  };

  void Run();
  void Do(const Task& task);
  void LookFor(const Task& task);
  void Queue(Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void()> on_done_;
  Supervisor& supervisor_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  std::set<Task> known_ ABSL_GUARDED_BY(mutex_);  // queued, in work, or done and not delivered
  std::set<std::string> refused_ ABSL_GUARDED_BY(mutex_);  // said once, not each time
  std::vector<v1::VerifyResult> verified_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> deleted_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mindforge
