// Reads of the store, off the thread that makes things durable: a long log may take a while.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "common/mutex.h"

namespace mindforge {

// A bounded queue and the thread that works it off. Thread-safe. The destructor runs what waits.
class Reader {
 public:
  explicit Reader(size_t most);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // Runs `read` on the reader's thread, in turn. False: too many wait already, and it never runs.
  bool Enqueue(std::function<void()> read);

  // Returns when nothing waits and nothing runs.
  void Drain();

 private:
  void Run();

  const size_t most_;
  Mutex mutex_;
  CondVar changed_;
  CondVar drained_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // a read waits for the disk: no commit may wait for it
};

}  // namespace mindforge
