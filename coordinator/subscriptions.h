// Who is to be woken when something changes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "coordinator/rpc/core.h"

namespace mindforge {

// Wake-ups by key. Thread-safe. Shared, so that a Subscription may outlive the shell.
class Subscriptions : public std::enable_shared_from_this<Subscriptions> {
 public:
  explicit Subscriptions(size_t most) : most_(most) {}

  // Null when there are too many.
  std::unique_ptr<Subscription> Add(const std::string& key, std::function<void()> wake);

  // Calls the wake-ups of these keys, without a lock.
  void Wake(const std::vector<std::string>& keys);

 private:
  class Entry;
  void Remove(const std::string& key, int64_t number);

  const size_t most_;
  Mutex mutex_;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::map<int64_t, std::function<void()>>> wakes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
