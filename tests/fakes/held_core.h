// A coordinator's core whose replies a test holds back: what a slow disk does to the real one.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "coordinator/rpc/core.h"

namespace mindforge {

// Thread-safe. Every worker it is told of is known to it from then on, at desired version 1.
class HeldCore : public Core {
 public:
  void Do(const sched::Event& event, OnOutcome then) override {
    Reply reply;
    {
      MutexLock lock(mutex_);
      if (const auto* report = std::get_if<sched::WorkerReport>(&event)) {
        state_.workers[report->worker.id].desired_version = 1;
      }
      reply = then(sched::Outcome(), state_);
    }
    MutexLock lock(mutex_);
    held_.push_back(std::move(reply));
  }
  void View(OnState then) override {
    Reply reply;
    {
      MutexLock lock(mutex_);
      reply = then(state_, sched::Now());
    }
    reply();
  }
  std::unique_ptr<Subscription> Watch(const JobId&, std::function<void()>) override {
    return std::make_unique<Subscription>();
  }
  std::unique_ptr<Subscription> Watch(const WorkerId&, std::function<void()> wake) override {
    MutexLock lock(mutex_);
    wakes_.push_back(std::move(wake));
    return std::make_unique<Subscription>();
  }
  bool Read(std::function<void()> read) override {
    read();
    return true;
  }
  absl::StatusOr<std::vector<StoredProgress>> ReadProgress(const JobId&, int64_t, int) override {
    return std::vector<StoredProgress>();
  }
  absl::StatusOr<std::vector<StoredLog>> ReadLogs(const JobId&, int64_t, std::optional<int>,
                                                  int) override {
    return std::vector<StoredLog>();
  }
  absl::StatusOr<std::vector<sched::JobEvent>> ReadEvents(const JobId&) override {
    return std::vector<sched::JobEvent>();
  }

  size_t held() {
    MutexLock lock(mutex_);
    return held_.size();
  }
  // Runs the replies that were held until now.
  void Release() {
    std::vector<Reply> replies;
    {
      MutexLock lock(mutex_);
      replies.swap(held_);
    }
    for (const Reply& reply : replies) reply();
  }
  // Calls all whom changes of workers wake, those whose call has ended too.
  void Wake() {
    std::vector<std::function<void()>> wakes;
    {
      MutexLock lock(mutex_);
      wakes = wakes_;
    }
    for (const auto& wake : wakes) wake();
  }

 private:
  Mutex mutex_;
  sched::State state_ ABSL_GUARDED_BY(mutex_);
  std::vector<Reply> held_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> wakes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
