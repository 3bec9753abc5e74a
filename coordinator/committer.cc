#include "coordinator/committer.h"

#include <pthread.h>

#include <iterator>
#include <utility>

namespace mindforge {

Committer::Committer(Store& store, const Clock& clock, Options options)
    : store_(store), clock_(clock), options_(std::move(options)), thread_([this] { Run(); }) {
  pthread_setname_np(thread_.native_handle(), "committer");
}

Committer::~Committer() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.SignalAll();
  thread_.join();
}

void Committer::Enqueue(sched::Changes changes, std::function<void()> spoken) {
  MutexLock lock(mutex_);
  if (failed_) return;
  waiting_.push_back({std::move(changes), std::move(spoken)});
  changed_.Signal();
}

void Committer::Drain() {
  MutexLock lock(mutex_);
  drained_.Wait(mutex_, [&] {
    mutex_.AssertHeld();
    return failed_ || (waiting_.empty() && !writing_);
  });
}

bool Committer::Idle() const {
  MutexLock lock(mutex_);
  return waiting_.empty() && !writing_ && !failed_;
}

bool Committer::Full() const {
  MutexLock lock(mutex_);
  return waiting_.size() >= options_.max_waiting;
}

absl::Duration Committer::BusySince() const {
  MutexLock lock(mutex_);
  return busy_since_;
}

void Committer::Run() {
  std::vector<Item> batch;
  bool purging = true;  // a run before may have left something
  while (true) {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      drained_.SignalAll();
      changed_.Wait(mutex_, [&] {
        mutex_.AssertHeld();
        return stopping_ || (!failed_ && (purging || !waiting_.empty()));
      });
      if (failed_ || (stopping_ && waiting_.empty())) return;  // all is written
      const size_t count = std::min(waiting_.size(), options_.max_batch);
      batch.assign(std::make_move_iterator(waiting_.begin()),
                   std::make_move_iterator(waiting_.begin() + count));
      waiting_.erase(waiting_.begin(), waiting_.begin() + count);
      writing_ = count > 0;
    }
    for (const Item& item : batch) purging |= !item.changes.deleted_jobs.empty();
    Write(batch);
    batch.clear();
    // A little at a time, so that what comes meanwhile waits no longer than for another commit. A
    // disk that refuses it is told of by the commits that matter.
    if (purging) purging = Purge();
  }
}

bool Committer::Purge() {
  SetBusySince(clock_.MonotonicNow());
  const absl::StatusOr<bool> more = store_.Purge(options_.purge_rows);
  SetBusySince(absl::InfiniteDuration());
  return more.value_or(false);
}

void Committer::SetBusySince(absl::Duration since) {
  MutexLock lock(mutex_);
  busy_since_ = since;
}

void Committer::Write(const std::vector<Item>& batch) {
  std::vector<const sched::Changes*> changes;
  for (const Item& item : batch) {
    if (!item.changes.empty()) changes.push_back(&item.changes);
  }
  if (!changes.empty()) {
    const absl::Duration start = clock_.MonotonicNow();
    SetBusySince(start);
    const absl::Status status = store_.Apply(changes);
    {
      MutexLock lock(mutex_);
      busy_since_ = absl::InfiniteDuration();
      if (!status.ok()) {
        failed_ = true;
        waiting_.clear();
      }
    }
    if (!status.ok()) {
      if (options_.on_failure) options_.on_failure(status);
      return;
    }
    if (options_.on_commit) options_.on_commit(clock_.MonotonicNow() - start);
  }
  for (const Item& item : batch) {
    if (item.spoken) item.spoken();
  }
}

}  // namespace mindforge
