// The thread that carries finished deltas from the batcher to gRPC, so that no stream's
// serialisation or socket costs the batcher a moment.
#pragma once

#include <deque>
#include <memory>
#include <thread>

#include "common/mutex.h"

namespace mindforge {

// Something with news to carry. At most once in the courier's queue.
class Parcel {
 public:
  virtual ~Parcel() = default;
  // On the courier's thread: hands on what there is. Must not wait.
  virtual void Carry() = 0;
};

// Thread-safe. The destructor carries what is queued, then ends the thread. Whoever posts lets a
// parcel be posted again only after Carry has begun, so the queue holds at most one entry a stream.
class Courier {
 public:
  Courier();
  ~Courier();
  Courier(const Courier&) = delete;
  Courier& operator=(const Courier&) = delete;

  void Post(std::shared_ptr<Parcel> parcel);

 private:
  void Run();

  Mutex mutex_;
  CondVar posted_;
  std::deque<std::shared_ptr<Parcel>> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: uses all of the above.
};

}  // namespace mindforge
