#include "worker/serve/courier.h"

#include <pthread.h>

#include <utility>

namespace mindforge {

Courier::Courier() : thread_([this] { Run(); }) {}

Courier::~Courier() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    posted_.Signal();
  }
  thread_.join();
}

void Courier::Post(std::shared_ptr<Parcel> parcel) {
  MutexLock lock(mutex_);
  queue_.push_back(std::move(parcel));
  // The thread takes everything at once: it sleeps only when the queue was empty.
  if (queue_.size() == 1) posted_.Signal();
}

void Courier::Run() {
  pthread_setname_np(pthread_self(), "courier");
  while (true) {
    std::deque<std::shared_ptr<Parcel>> parcels;
    {
      MutexLock lock(mutex_);
      posted_.Wait(mutex_, [this] {
        mutex_.AssertHeld();
        return stopping_ || !queue_.empty();
      });
      if (queue_.empty()) return;
      parcels.swap(queue_);
    }
    for (const std::shared_ptr<Parcel>& parcel : parcels) parcel->Carry();
  }
}

}  // namespace mindforge
