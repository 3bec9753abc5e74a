// A store in memory that keeps what SqliteStore keeps, and fails when told to.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "coordinator/store/store.h"

namespace mindforge {

// Thread-safe.
class MemoryStore : public Store {
 public:
  absl::StatusOr<sched::Snapshot> Load() override {
    MutexLock lock(mutex_);
    sched::Snapshot snapshot;
    for (const auto& [id, job] : jobs_) {
      snapshot.jobs.push_back(job);
      auto& history = snapshot.histories[id];
      for (const auto& [number, event] : events_[id]) {
        if (sched::IsFinal(job.state)) break;
        history.events.push_back(event);
        history.event_count = number;
      }
      if (!milestones_[id].empty()) history.milestone_count = milestones_[id].rbegin()->first;
      if (!logs_[id].empty()) history.log_count = logs_[id].rbegin()->first;
      if (progress_[id].empty()) continue;
      history.last_progress = progress_[id].rbegin()->second;
      history.last_progress.bytes.clear();
      history.last_progress.skipped = false;
      int64_t before = 0;
      for (const auto& [step, record] : progress_[id]) {
        while (!sched::IsFinal(job.state) && ++before < step) history.missing_steps.insert(before);
        if (history.first_loss == 0) history.first_loss = record.loss;
        if (record.validation_loss) history.last_progress.validation_loss = record.validation_loss;
        history.productive_seconds += record.step_seconds;
        if (!record.skipped) history.tokens += record.tokens;
      }
    }
    for (const auto& [id, worker] : workers_) snapshot.workers.push_back(worker);
    for (const auto& [key, checkpoint] : checkpoints_) snapshot.checkpoints.push_back(checkpoint);
    for (const auto& [name, d] : deployments_) snapshot.deployments.push_back(d);
    for (const auto& [path, order] : delete_orders_) snapshot.delete_orders.push_back(order);
    for (const auto& [id, request] : requests_) snapshot.requests.push_back(request);
    return snapshot;
  }

  absl::Status Apply(const std::vector<const sched::Changes*>& batch) override {
    MutexLock lock(mutex_);
    waiting_ = true;
    blocked_.SignalAll();
    blocked_.Wait(mutex_, [&] {
      mutex_.AssertHeld();
      return !block_;
    });
    waiting_ = false;
    if (!fail_.ok()) return fail_;
    for (const sched::Changes* changes : batch) Take(*changes);
    ++transactions_;
    return absl::OkStatus();
  }

  // A deleted job leaves but the number of its records here.
  absl::StatusOr<bool> Purge(int rows) override {
    MutexLock lock(mutex_);
    purging_ = true;
    blocked_.SignalAll();
    blocked_.Wait(mutex_, [&] {
      mutex_.AssertHeld();
      return !block_purges_;
    });
    purging_ = false;
    leftovers_ = std::max<int64_t>(0, leftovers_ - rows);
    ++purges_;
    blocked_.SignalAll();
    return leftovers_ > 0;
  }

  absl::StatusOr<std::vector<StoredProgress>> ReadProgress(const JobId& job, int64_t after_step,
                                                           int limit) override {
    MutexLock lock(mutex_);
    std::vector<StoredProgress> records;
    const auto& all = progress_[job];
    for (auto it = all.upper_bound(after_step); it != all.end(); ++it) {
      if (static_cast<int>(records.size()) == limit) break;
      records.push_back({it->first, it->second.bytes});
    }
    return records;
  }

  absl::StatusOr<std::vector<StoredLog>> ReadLogs(const JobId& job, int64_t after,
                                                  std::optional<int> rank, int limit) override {
    MutexLock lock(mutex_);
    std::vector<StoredLog> lines;
    const auto& all = logs_[job];
    for (auto it = all.upper_bound(after); it != all.end(); ++it) {
      if (static_cast<int>(lines.size()) == limit) break;
      if (rank && it->second.rank != *rank) continue;
      lines.push_back({it->first, it->second.rank, it->second.bytes});
    }
    return lines;
  }

  absl::StatusOr<std::vector<sched::Milestone>> ReadMilestones(const JobId& job, int64_t after,
                                                               int limit) override {
    MutexLock lock(mutex_);
    std::vector<sched::Milestone> marks;
    const auto& all = milestones_[job];
    for (auto it = all.upper_bound(after); it != all.end(); ++it) {
      if (static_cast<int>(marks.size()) == limit) break;
      marks.push_back(it->second);
    }
    return marks;
  }

  absl::StatusOr<std::vector<sched::JobEvent>> ReadEvents(const JobId& job) override {
    MutexLock lock(mutex_);
    std::vector<sched::JobEvent> events;
    for (const auto& [number, event] : events_[job]) events.push_back(event);
    return events;
  }

  // Every later Apply fails so; OK heals.
  void FailWith(absl::Status status) {
    MutexLock lock(mutex_);
    fail_ = std::move(status);
  }
  // While blocked Apply waits, as a slow disk makes it.
  void Block(bool block) {
    MutexLock lock(mutex_);
    block_ = block;
    blocked_.SignalAll();
  }
  // True once an Apply waits.
  bool WaitUntilBlocked(absl::Duration patience) {
    MutexLock lock(mutex_);
    return blocked_.WaitFor(mutex_, patience, [&] {
      mutex_.AssertHeld();
      return waiting_ && block_;
    });
  }
  // The same of Purge.
  void BlockPurges(bool block) {
    MutexLock lock(mutex_);
    block_purges_ = block;
    blocked_.SignalAll();
  }
  bool WaitUntilPurgeBlocked(absl::Duration patience) {
    MutexLock lock(mutex_);
    return blocked_.WaitFor(mutex_, patience, [&] {
      mutex_.AssertHeld();
      return purging_ && block_purges_;
    });
  }
  // As if deleted jobs had left so many rows.
  void SetLeftovers(int64_t rows) {
    MutexLock lock(mutex_);
    leftovers_ = rows;
  }
  bool WaitUntilPurged(absl::Duration patience) {
    MutexLock lock(mutex_);
    return blocked_.WaitFor(mutex_, patience, [&] {
      mutex_.AssertHeld();
      return leftovers_ == 0;
    });
  }
  int purges() const {
    MutexLock lock(mutex_);
    return purges_;
  }
  int transactions() const {
    MutexLock lock(mutex_);
    return transactions_;
  }

 private:
  void Take(const sched::Changes& changes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const auto& job : changes.jobs) jobs_[job.id] = job;
    for (const auto& [job, entry] : changes.events) {
      auto& events = events_[job];
      events[entry.first] = entry.second;
      if (events.size() > sched::kMaxEventsPerJob) events.erase(events.begin());
    }
    for (const auto& [job, record] : changes.progress) {
      progress_[job].insert({record.step, record});
    }
    for (const auto& [job, mark] : changes.milestones) {
      auto& marks = milestones_[job];
      marks[mark.number] = mark;
      marks.erase(marks.begin(), marks.upper_bound(mark.number - sched::kMaxMilestonesPerJob));
    }
    for (const auto& [job, entry] : changes.logs) {
      auto& logs = logs_[job];
      logs[entry.first] = entry.second;
      logs.erase(logs.begin(), logs.upper_bound(entry.first - sched::kMaxLogLinesPerJob));
    }
    for (const auto& id : changes.deleted_workers) workers_.erase(id);
    for (const auto& worker : changes.workers) workers_[worker.id] = worker;
    for (const auto& c : changes.checkpoints) checkpoints_[{c.job, c.step}] = c;
    for (const auto& key : changes.deleted_checkpoints) checkpoints_.erase(key);
    for (const auto& order : changes.delete_orders) delete_orders_[order.path] = order;
    for (const auto& path : changes.done_delete_orders) delete_orders_.erase(path);
    for (const auto& d : changes.deployments) deployments_[d.name] = d;
    for (const auto& name : changes.deleted_deployments) deployments_.erase(name);
    for (const auto& request : changes.requests) requests_[request.id] = request;
    for (const auto& id : changes.forgotten_requests) requests_.erase(id);
    for (const auto& id : changes.deleted_jobs) {
      jobs_.erase(id);
      leftovers_ += static_cast<int64_t>(progress_[id].size());
      events_.erase(id);
      progress_.erase(id);
      logs_.erase(id);
      milestones_.erase(id);
      std::erase_if(checkpoints_, [&](const auto& e) { return e.first.first == id; });
      std::erase_if(delete_orders_, [&](const auto& e) { return e.second.job == id; });
    }
  }

  mutable Mutex mutex_;
  CondVar blocked_;
  bool block_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  bool block_purges_ ABSL_GUARDED_BY(mutex_) = false;
  bool purging_ ABSL_GUARDED_BY(mutex_) = false;
  int transactions_ ABSL_GUARDED_BY(mutex_) = 0;
  int purges_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t leftovers_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status fail_ ABSL_GUARDED_BY(mutex_);
  std::map<JobId, sched::JobRecord> jobs_ ABSL_GUARDED_BY(mutex_);
  std::map<JobId, std::map<int64_t, sched::JobEvent>> events_ ABSL_GUARDED_BY(mutex_);
  std::map<JobId, std::map<int64_t, sched::Progress>> progress_ ABSL_GUARDED_BY(mutex_);
  std::map<JobId, std::map<int64_t, sched::LogLine>> logs_ ABSL_GUARDED_BY(mutex_);
  std::map<JobId, std::map<int64_t, sched::Milestone>> milestones_ ABSL_GUARDED_BY(mutex_);
  std::map<WorkerId, sched::WorkerRecord> workers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<JobId, int64_t>, sched::Checkpoint> checkpoints_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, sched::DeleteOrder> delete_orders_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, sched::Deployment> deployments_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, sched::RequestRecord> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
