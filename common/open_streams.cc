#include "common/open_streams.h"

#include <pthread.h>

#include <utility>
#include <vector>

namespace mindforge {
namespace {

// A limit is noticed late by at most this share of it.
constexpr int kLooksPerLimit = 8;

}  // namespace

OpenStreams::OpenStreams(StreamLimits limits) : limits_(limits), thread_([this] { Run(); }) {}

OpenStreams::~OpenStreams() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

int64_t OpenStreams::Add(std::weak_ptr<OpenStream> stream) {
  bool draining = false;
  int64_t key = 0;
  {
    MutexLock lock(mutex_);
    key = next_++;
    streams_[key] = stream;
    draining = draining_;
    if (streams_.size() == 1) changed_.SignalAll();
  }
  if (const auto strong = stream.lock(); draining && strong != nullptr) strong->Drain();
  return key;
}

void OpenStreams::Remove(int64_t key) {
  MutexLock lock(mutex_);
  streams_.erase(key);
}

void OpenStreams::Drain() {
  std::map<int64_t, std::weak_ptr<OpenStream>> streams;
  {
    MutexLock lock(mutex_);
    if (std::exchange(draining_, true)) return;
    changed_.SignalAll();
    streams = streams_;
  }
  for (const auto& [key, stream] : streams) {
    if (const auto strong = stream.lock(); strong != nullptr) strong->Drain();
  }
}

void OpenStreams::Run() {
  pthread_setname_np(pthread_self(), "streams");
  while (true) {
    absl::Duration limit;
    std::vector<std::weak_ptr<OpenStream>> streams;
    {
      MutexLock lock(mutex_);
      while (streams_.empty() && !stopping_) changed_.Wait(mutex_);
      limit = draining_ ? limits_.unread_in_drain : limits_.unread;
      if (!stopping_) changed_.WaitFor(mutex_, limit / kLooksPerLimit);
      if (stopping_) return;
      limit = draining_ ? limits_.unread_in_drain : limits_.unread;
      for (const auto& [key, stream] : streams_) streams.push_back(stream);
    }
    for (const auto& stream : streams) {
      if (const auto strong = stream.lock(); strong != nullptr) strong->Look(Now(), limit);
    }
  }
}

}  // namespace mindforge
