// A fixed set of threads that run one function together, meeting at barriers inside it. A decode
// step has some fifty such meetings within a millisecond or two, so waiting spins for a moment
// before it parks.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace mindforge {

// Thread-compatible: one caller at a time.
class ThreadTeam {
 public:
  // The caller of Run is one of the `threads`.
  explicit ThreadTeam(int64_t threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int64_t size() const { return size_; }

  // Calls work(0) … work(size - 1), each on its own thread; returns when all have.
  void Run(const std::function<void(int64_t)>& work);

  // Inside `work`: waits for the whole team. Everything written before is seen after.
  void Meet();

  // The contiguous share of `count` items of member `index`: [first, second).
  std::pair<int64_t, int64_t> Share(int64_t count, int64_t index) const {
    return {count * index / size_, count * (index + 1) / size_};
  }

 private:
  void Serve(int64_t index);

  const int64_t size_;
  const std::function<void(int64_t)>* work_ = nullptr;  // published by rounds_
  std::atomic<uint32_t> rounds_ = 0;                    // Run calls so far
  std::atomic<uint32_t> meetings_ = 0;                  // completed
  std::atomic<int64_t> arrived_ = 0;                    // at the present meeting
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> members_;  // for the cores; joined in the destructor
};

}  // namespace mindforge
