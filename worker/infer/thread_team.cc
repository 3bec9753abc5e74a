#include "worker/infer/thread_team.h"

#include <pthread.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/check.h"

namespace mindforge {
namespace {

// About 50 µs: longer than a stage of a decode step, shorter than anyone minds losing.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

void AwaitChange(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadTeam::ThreadTeam(int64_t threads) : size_(threads) {
  MF_CHECK_GT(threads, 0);
  for (int64_t index = 1; index < size_; ++index) {
    members_.emplace_back([this, index] { Serve(index); });
  }
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true, std::memory_order_relaxed);
  rounds_.fetch_add(1, std::memory_order_release);
  rounds_.notify_all();
  for (std::thread& member : members_) member.join();
}

void ThreadTeam::Run(const std::function<void(int64_t)>& work) {
  work_ = &work;
  rounds_.fetch_add(1, std::memory_order_release);
  rounds_.notify_all();
  work(0);
  Meet();
}

void ThreadTeam::Serve(int64_t index) {
  pthread_setname_np(pthread_self(), "kernels");
  for (uint32_t round = 0;; ++round) {
    AwaitChange(rounds_, round);
    if (stop_.load(std::memory_order_relaxed)) return;
    (*work_)(index);
    Meet();
  }
}

void ThreadTeam::Meet() {
  if (size_ == 1) return;
  const uint32_t meeting = meetings_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.fetch_add(1, std::memory_order_release);
    meetings_.notify_all();
  } else {
    AwaitChange(meetings_, meeting);
  }
}

}  // namespace mindforge
