// Threads that tokenize, so that no text, however long, holds one of gRPC's, which carry every
// stream. What waits is bounded by calls and by bytes.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"

namespace mindforge {

// Thread-safe. The destructor runs what is queued, then ends the threads.
class EncodePool {
 public:
  struct Options {
    std::string name;  // of the threads, at most 15 bytes
    int threads = 1;
    // Added to the threads' niceness: work that nobody waits for token by token yields to what
    // generates.
    int niceness = 0;
    size_t max_calls = 256;
    size_t max_bytes = size_t{64} << 20;
  };

  explicit EncodePool(Options options);
  ~EncodePool();
  EncodePool(const EncodePool&) = delete;
  EncodePool& operator=(const EncodePool&) = delete;

  // Runs `work`, of a request of so many bytes, on a thread of the pool. RESOURCE_EXHAUSTED (reason
  // QUEUE_FULL): too much is waiting; `work` is then never called.
  absl::Status Run(size_t bytes, std::function<void()> work);

  size_t waiting() const {
    MutexLock lock(mutex_);
    return queue_.size();
  }

 private:
  struct Job {
    size_t bytes = 0;
    std::function<void()> work;
  };

  void Loop();

  const Options options_;
  mutable Mutex mutex_;
  CondVar queued_;
  std::deque<Job> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;  // Last: they use all of the above.
};

}  // namespace mindforge
