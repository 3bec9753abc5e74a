// Everything the scheduler decides by: the durable records, what is known while the coordinator
// lives, and indexes over both. A plain value: only Step changes it.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace mindforge::sched {

// The durations that decisions depend on; interface.md's CoordinatorConfig.
struct Settings {
  absl::Duration worker_lease = absl::Seconds(10);
  absl::Duration unreachable_timeout = absl::Seconds(60);
  absl::Duration gather_window = absl::Seconds(2);
  absl::Duration grow_cooldown = absl::Seconds(60);
  // A job that trains hangs when no member got on for so long at least, or so many of its own
  // steps, at most an hour; before the first step and at the last one, when none did for
  // start_timeout.
  absl::Duration hang_timeout = absl::Minutes(2);
  absl::Duration start_timeout = absl::Minutes(10);
  // Members that were told to stop and are still there after so long are killed.
  absl::Duration stop_timeout = absl::Minutes(5);
  // A lost worker that holds nothing is forgotten after so long.
  absl::Duration forget_worker_after = absl::Hours(24);
};

// Limits; what is beyond is refused or the oldest goes.
inline constexpr size_t kMaxLiveJobs = 20'000;
inline constexpr size_t kMaxWorkers = 4'096;
inline constexpr size_t kMaxDeployments = 1'024;
inline constexpr size_t kMaxEventsPerJob = 50;
inline constexpr size_t kMaxOtherRequests = 20'000;  // remembered ids of calls other than SubmitJob
inline constexpr int64_t kMaxLogLinesPerJob = 20'000;
inline constexpr int64_t kMaxMilestonesPerJob = 10'000;
inline constexpr size_t kMaxWorldSizes = 1'000;      // of a job; the oldest goes
inline constexpr size_t kMaxMissingSteps = 200'000;  // of a job; beyond, late ones are not counted

// Where a queued job stands: priority first, then the order of submission.
using QueueKey = std::pair<int64_t, int64_t>;  // {-priority, sequence}

// What the store holds at start.
struct Snapshot {
  struct JobHistory {
    std::vector<JobEvent> events;  // the newest, oldest first
    int64_t event_count = 0;
    int64_t log_count = 0;
    int64_t milestone_count = 0;
    Progress last_progress;
    double first_loss = 0;
    double productive_seconds = 0;
    int64_t tokens = 0;
    std::set<int64_t> missing_steps;  // of a live job; below the last one and not on record
  };
  std::vector<JobRecord> jobs;
  std::map<JobId, JobHistory> histories;
  std::vector<WorkerRecord> workers;
  std::vector<Checkpoint> checkpoints;
  std::vector<Deployment> deployments;
  std::vector<DeleteOrder> delete_orders;
  std::vector<RequestRecord> requests;
};

struct State {
  Settings settings;

  std::map<JobId, Job> jobs;
  std::map<WorkerId, Worker> workers;
  std::map<JobId, std::map<int64_t, Checkpoint>> checkpoints;  // by step
  std::map<std::string, DeleteOrder> delete_orders;            // by path
  std::map<std::string, Deployment> deployments;
  std::map<WorkerId, InferenceNode> inference;
  std::unordered_map<std::string, RequestRecord> requests;

  // Derived from the above, kept in step with it.
  std::map<std::string, JobId> live_names;
  std::map<std::string, std::map<int64_t, JobId>> names;  // all jobs of a name, by sequence
  std::map<int64_t, JobId> by_sequence;
  std::map<QueueKey, JobId> queue;  // QUEUED
  std::set<JobId> active;           // hold devices, or wait to let go of them
  std::map<std::pair<WorkerId, std::string>, std::pair<JobId, int>> holders;  // device -> rank
  std::set<std::pair<JobId, int64_t>> folder_work;  // checkpoints to verify or to delete
  std::map<int64_t, std::string> other_requests;    // by sequence: not a submit's

  int64_t next_sequence = 1;
  int64_t next_request = 1;
  absl::Duration started = absl::ZeroDuration();          // when this coordinator began to serve
  absl::Duration next_expiry = absl::InfiniteDuration();  // nothing falls due before
  bool reschedule = false;  // something that placement depends on has changed
  bool reassign = false;    // something that deployments depend on has changed
};

// The state that a coordinator starts with: leases begin anew at `now`, running jobs are left alone
// until their agents report.
State LoadState(Snapshot snapshot, const Settings& settings, const Now& now);

// By id, else the live job of that name, else the newest of that name; null: none.
const Job* FindJob(const State& state, const std::string& name_or_id);
const Worker* FindWorker(const State& state, const std::string& name_or_id);

// The newest COMMITTED checkpoint of a job; null: none.
const Checkpoint* NewestCheckpoint(const State& state, const JobId& job);
const Checkpoint* FindCheckpoint(const State& state, const JobId& job, int64_t step);

// True when a worker has to read or delete the checkpoint's folder.
bool NeedsFolderWork(const Checkpoint& checkpoint);

// "step-100.g2-0123456789abcdef": names a checkpoint's weights for good.
std::string WeightsVersion(const Checkpoint& checkpoint);

}  // namespace mindforge::sched
