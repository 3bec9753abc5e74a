#include "coordinator/reader.h"

#include <pthread.h>

#include <utility>

namespace mindforge {

Reader::Reader(size_t most) : most_(most), thread_([this] { Run(); }) {
  pthread_setname_np(thread_.native_handle(), "reader");
}

Reader::~Reader() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.SignalAll();
  thread_.join();
}

bool Reader::Enqueue(std::function<void()> read) {
  MutexLock lock(mutex_);
  if (waiting_.size() >= most_) return false;
  waiting_.push_back(std::move(read));
  changed_.Signal();
  return true;
}

void Reader::Drain() {
  MutexLock lock(mutex_);
  drained_.Wait(mutex_, [&] {
    mutex_.AssertHeld();
    return waiting_.empty() && !running_;
  });
}

void Reader::Run() {
  std::function<void()> read;
  while (true) {
    {
      MutexLock lock(mutex_);
      running_ = false;
      if (waiting_.empty()) drained_.SignalAll();
      changed_.Wait(mutex_, [&] {
        mutex_.AssertHeld();
        return stopping_ || !waiting_.empty();
      });
      if (waiting_.empty()) return;
      read = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = true;
    }
    read();
    read = nullptr;  // what it holds goes before it counts as done
  }
}

}  // namespace mindforge
