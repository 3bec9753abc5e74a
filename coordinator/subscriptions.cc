#include "coordinator/subscriptions.h"

namespace mindforge {

class Subscriptions::Entry : public Subscription {
 public:
  Entry(std::shared_ptr<Subscriptions> all, std::string key, int64_t number)
      : all_(std::move(all)), key_(std::move(key)), number_(number) {}
  ~Entry() override { all_->Remove(key_, number_); }

 private:
  const std::shared_ptr<Subscriptions> all_;
  const std::string key_;
  const int64_t number_;
};

std::unique_ptr<Subscription> Subscriptions::Add(const std::string& key,
                                                 std::function<void()> wake) {
  int64_t number = 0;
  {
    MutexLock lock(mutex_);
    if (count_ >= most_) return nullptr;
    ++count_;
    number = next_++;
    wakes_[key][number] = std::move(wake);
  }
  return std::make_unique<Entry>(shared_from_this(), key, number);
}

void Subscriptions::Remove(const std::string& key, int64_t number) {
  std::function<void()> removed;  // goes without the lock: it may own what calls back here
  MutexLock lock(mutex_);
  const auto it = wakes_.find(key);
  if (it == wakes_.end()) return;
  const auto wake = it->second.find(number);
  if (wake == it->second.end()) return;
  removed = std::move(wake->second);
  it->second.erase(wake);
  if (it->second.empty()) wakes_.erase(it);
  --count_;
}

void Subscriptions::Wake(const std::vector<std::string>& keys) {
  std::vector<std::function<void()>> due;
  {
    MutexLock lock(mutex_);
    for (const std::string& key : keys) {
      const auto it = wakes_.find(key);
      if (it == wakes_.end()) continue;
      for (const auto& [number, wake] : it->second) due.push_back(wake);
    }
  }
  for (const auto& wake : due) wake();
}

}  // namespace mindforge
