#include "coordinator/scheduler/state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/context.h"
#include "coordinator/scheduler/retry.h"

namespace mindforge::sched {
namespace {

// Watchers may hold revisions of the run before that were never durable: begin beyond them.
constexpr int64_t kRevisionJump = int64_t{1} << 20;

Job MakeJob(JobRecord record, Snapshot::JobHistory history, const Now& now) {
  Job job;
  static_cast<JobRecord&>(job) = std::move(record);
  job.revision += kRevisionJump;
  job.live.assign(job.members.size(), MemberLive{});
  // What ran before the restart runs on unseen until its agent says otherwise.
  const bool ran = job.state == JobState::kRunning || job.state == JobState::kPausing ||
                   job.stop != StopPurpose::kNone || job.final();
  for (MemberLive& live : job.live) live.seen = ran;
  job.events.assign(history.events.begin(), history.events.end());
  job.event_count = history.event_count;
  job.log_count = history.log_count;
  job.milestone_count = history.milestone_count;
  job.progress = std::move(history.last_progress);
  job.max_step = job.progress.step;
  job.first_loss = history.first_loss;
  job.productive_seconds = history.productive_seconds;
  job.tokens = history.tokens;
  job.missing_steps = std::move(history.missing_steps);
  job.queued_since = job.membership_since = job.progress_since = now.mono;
  if (job.retry_at > now.wall) {
    // A wall clock that was set back must not hold the job for longer than a retry ever waits.
    job.not_before = now.mono + std::min(job.retry_at - now.wall, kLongestRetryPause);
  }
  return job;
}

}  // namespace

State LoadState(Snapshot snapshot, const Settings& settings, const Now& now) {
  State state;
  state.settings = settings;
  state.started = now.mono;
  for (JobRecord& record : snapshot.jobs) {
    state.next_sequence = std::max(state.next_sequence, record.sequence + 1);
    const JobId id = record.id;
    Job& job = InsertJob(state, MakeJob(std::move(record), std::move(snapshot.histories[id]), now));
    if (job.stop != StopPurpose::kNone || job.final()) {
      job.stop_by = now.mono + settings.stop_timeout;
    }
  }
  for (WorkerRecord& record : snapshot.workers) {
    Worker& worker = state.workers[record.id];
    static_cast<WorkerRecord&>(worker) = std::move(record);
    worker.lease_from = now.mono;
    worker.last_seen = now.wall;
    worker.desired_version = absl::ToUnixMicros(now.wall);
  }
  for (Checkpoint& checkpoint : snapshot.checkpoints) {
    if (NeedsFolderWork(checkpoint)) state.folder_work.insert({checkpoint.job, checkpoint.step});
    state.checkpoints[checkpoint.job][checkpoint.step] = std::move(checkpoint);
  }
  for (Deployment& deployment : snapshot.deployments) {
    state.deployments[deployment.name] = std::move(deployment);
  }
  for (DeleteOrder& order : snapshot.delete_orders) {
    state.delete_orders[order.path] = std::move(order);
  }
  for (RequestRecord& request : snapshot.requests) {
    state.next_request = std::max(state.next_request, request.sequence + 1);
    if (request.job.empty()) state.other_requests[request.sequence] = request.id;
    const std::string id = request.id;
    state.requests[id] = std::move(request);
  }
  state.next_expiry = now.mono;
  state.reschedule = state.reassign = true;
  return state;
}

const Job* FindJob(const State& state, const std::string& name_or_id) {
  const auto by_id = state.jobs.find(JobId(name_or_id));
  if (by_id != state.jobs.end()) return &by_id->second;
  const auto live = state.live_names.find(name_or_id);
  if (live != state.live_names.end()) return &state.jobs.at(live->second);
  const auto named = state.names.find(name_or_id);
  if (named == state.names.end()) return nullptr;
  return &state.jobs.at(named->second.rbegin()->second);
}

const Worker* FindWorker(const State& state, const std::string& name_or_id) {
  const auto by_id = state.workers.find(WorkerId(name_or_id));
  if (by_id != state.workers.end()) return &by_id->second;
  const Worker* found = nullptr;
  for (const auto& [id, worker] : state.workers) {
    // A live worker of that name before a lost one that it replaced.
    if (worker.name == name_or_id && (found == nullptr || found->lost)) found = &worker;
  }
  return found;
}

const Checkpoint* NewestCheckpoint(const State& state, const JobId& job) {
  const auto of_job = state.checkpoints.find(job);
  if (of_job == state.checkpoints.end()) return nullptr;
  for (auto it = of_job->second.rbegin(); it != of_job->second.rend(); ++it) {
    if (it->second.state == CheckpointState::kCommitted) return &it->second;
  }
  return nullptr;
}

const Checkpoint* FindCheckpoint(const State& state, const JobId& job, int64_t step) {
  const auto of_job = state.checkpoints.find(job);
  if (of_job == state.checkpoints.end()) return nullptr;
  const auto found = of_job->second.find(step);
  return found == of_job->second.end() ? nullptr : &found->second;
}

bool NeedsFolderWork(const Checkpoint& checkpoint) {
  return checkpoint.verification == Verification::kPending ||
         checkpoint.state == CheckpointState::kDeleting;
}

std::string WeightsVersion(const Checkpoint& checkpoint) {
  return absl::StrCat("step-", checkpoint.step, ".g", checkpoint.generation.value(), "-",
                      checkpoint.manifest_digest);
}

}  // namespace mindforge::sched
