#include "worker/serve/encode_pool.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"

namespace mindforge {

EncodePool::EncodePool(Options options) : options_(std::move(options)) {
  for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Loop(); });
}

EncodePool::~EncodePool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    queued_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::Status EncodePool::Run(size_t bytes, std::function<void()> work) {
  MutexLock lock(mutex_);
  // A queue that is empty takes any one.
  const bool full = queue_.size() >= options_.max_calls ||
                    (!queue_.empty() && queued_bytes_ + bytes > options_.max_bytes);
  if (full) {
    return Error(
        absl::StatusCode::kResourceExhausted, "QUEUE_FULL",
        absl::StrCat(queue_.size(), " requests of ", queued_bytes_,
                     " bytes in all wait to be tokenized (the limits are ", options_.max_calls,
                     " and ", options_.max_bytes, "); try again later or add replicas"));
  }
  queue_.push_back({bytes, std::move(work)});
  queued_bytes_ += bytes;
  queued_.Signal();
  return absl::OkStatus();
}

void EncodePool::Loop() {
  pthread_setname_np(pthread_self(), options_.name.c_str());
  // Linux keeps a niceness for each thread: "process 0" is this one. A limit on it is no error.
  if (options_.niceness != 0) (void)::setpriority(PRIO_PROCESS, 0, options_.niceness);
  while (true) {
    Job job;
    {
      MutexLock lock(mutex_);
      queued_.Wait(mutex_, [this] {
        mutex_.AssertHeld();
        return stopping_ || !queue_.empty();
      });
      if (queue_.empty()) return;
      job = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= job.bytes;
    }
    job.work();
  }
}

}  // namespace mindforge
