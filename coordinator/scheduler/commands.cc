#include "coordinator/scheduler/commands.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/checkpoints.h"
#include "coordinator/scheduler/membership.h"
#include "coordinator/scheduler/set_aside.h"

namespace mindforge::sched {
namespace {

// The job that a command is about; null when the outcome is decided already.
Job* Find(Context& c, const std::string& name_or_id) {
  const Job* found = FindJob(c.state, name_or_id);
  if (found == nullptr) {
    c.out.status = CommandError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                                absl::StrCat("there is no job with the name or id '", name_or_id,
                                             "': `mindforge job list` shows all"));
    return nullptr;
  }
  c.out.job = found->id;
  return &c.state.jobs.at(found->id);
}

// As Find; refuses a job that has ended.
Job* FindLive(Context& c, const std::string& name_or_id, const char* verb) {
  Job* job = Find(c, name_or_id);
  if (job == nullptr || !job->final()) return job;
  c.out.status = CommandError(
      absl::StatusCode::kFailedPrecondition, "JOB_ENDED",
      absl::StrCat(InWords(*job), " (", job->id.value(), ") is ", StateName(job->state),
                   " and cannot be ", verb, ": submit it again as a new job"));
  return nullptr;
}

bool NameIsFree(Context& c, const std::string& name) {
  const auto live = c.state.live_names.find(name);
  if (live != c.state.live_names.end()) {
    c.out.status = CommandError(
        absl::StatusCode::kAlreadyExists, "JOB_NAME_TAKEN",
        absl::StrCat("name: '", name, "' is taken by job ", live->second.value(), ", which is ",
                     StateName(c.state.jobs.at(live->second).state),
                     ": choose another name, or cancel that job first (mindforge job cancel ", name,
                     ")"));
    return false;
  }
  if (c.state.jobs.count(JobId(name)) > 0) {
    c.out.status = CommandError(
        absl::StatusCode::kAlreadyExists, "JOB_NAME_TAKEN",
        absl::StrCat("name: '", name, "' is the id of another job: choose another name"));
    return false;
  }
  return true;
}

// What a job that does not train makes of it; one that does acts in this step.
void Scaled(Context& c, Job& job) {
  const std::string scaled =
      absl::StrCat("scaled to ", job.wish.min_workers, " to ", job.wish.max_workers, " workers, ");
  job.scale_asked = job.active() && job.state != JobState::kPausing;
  if (job.state == JobState::kStarting ||
      (job.state == JobState::kResizing && job.stop == StopPurpose::kNone)) {
    Explain(c, job,
            absl::StrCat("starts on ", job.members.size(),
                         job.members.size() == 1 ? " device; " : " devices; ", scaled,
                         "which it comes to when it trains"));
  } else if (job.state == JobState::kResizing) {
    Explain(
        c, job,
        absl::StrCat("writes a checkpoint and stops; ", scaled, "which its next start follows"));
  } else if (job.state == JobState::kPaused || job.state == JobState::kPausing) {
    Explain(c, job, absl::StrCat("paused as asked; ", scaled, "which counts once it is resumed"));
  }
}

}  // namespace

bool Known(Context& c, const Request& request) {
  const auto known = c.state.requests.find(request.id);
  if (known == c.state.requests.end()) return false;
  if (known->second.digest != request.digest) {
    c.out.status = CommandError(
        absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
        absl::StrCat("request_id '", request.id, "' was used before for another call",
                     known->second.job.empty()
                         ? ""
                         : absl::StrCat(" (it submitted job ", known->second.job.value(), ")"),
                     ": use a new request_id for a new request"));
    return true;
  }
  c.out.repeated = true;
  c.out.job = known->second.job;
  return true;
}

void Remember(Context& c, const Request& request, const JobId& job) {
  RequestRecord record{request.id, request.digest, job, c.state.next_request++};
  if (job.empty()) {
    auto& others = c.state.other_requests;
    others[record.sequence] = record.id;
    if (others.size() > kMaxOtherRequests) {
      c.out.changes.forgotten_requests.push_back(others.begin()->second);
      c.state.requests.erase(others.begin()->second);
      others.erase(others.begin());
    }
  }
  c.out.changes.requests.push_back(record);
  c.state.requests[request.id] = std::move(record);
}

void On(Context& c, const SubmitJob& command) {
  if (Known(c, command.request)) {
    if (c.out.repeated && c.state.jobs.count(c.out.job) == 0) {
      c.out.status = CommandError(
          absl::StatusCode::kNotFound, "JOB_DELETED",
          absl::StrCat("job ", c.out.job.value(), " of request_id '", command.request.id,
                       "' was deleted: use a new request_id to submit it again"));
    }
    return;
  }
  if (!NameIsFree(c, command.wish.name)) return;
  if (c.state.live_names.size() >= kMaxLiveJobs) {
    c.out.status = CommandError(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_JOBS",
        absl::StrCat(kMaxLiveJobs, " jobs are live already: wait until some have ended"));
    return;
  }
  if (c.state.jobs.count(command.id) > 0 || c.state.names.count(command.id.value()) > 0) {
    c.out.status = CommandError(absl::StatusCode::kUnavailable, "JOB_ID_TAKEN",
                                absl::StrCat("the id drawn for the job, ", command.id.value(),
                                             ", is taken already: submit it again"));
    return;
  }
  Job job;
  job.id = command.id;
  job.sequence = c.state.next_sequence++;
  job.wish = command.wish;
  job.spec = command.spec;
  job.submitted_at = c.now.wall;
  job.queued_since = job.membership_since = job.progress_since = c.now.mono;
  Job& stored = InsertJob(c.state, std::move(job));
  c.out.job = stored.id;
  Explain(c, stored, "accepted; waits for the jobs ahead of it");
  Remember(c, command.request, stored.id);
  c.state.reschedule = true;
}

void On(Context& c, const CancelJob& command) {
  if (Known(c, command.request)) {
    if (c.out.repeated) Find(c, command.job);
    return;
  }
  Job* job = Find(c, command.job);
  if (job == nullptr) return;
  if (job->final()) {
    if (job->state != JobState::kCancelled) FindLive(c, command.job, "cancelled");
    return;
  }
  Remember(c, command.request);
  if (job->state == JobState::kCancelling) return;
  job->stop = StopPurpose::kNone;
  Move(c, *job, JobState::kCancelling, "cancelled as asked; waits until its trainers are gone");
  Settle(c, *job);
}

void On(Context& c, const PauseJob& command) {
  if (Known(c, command.request)) {
    if (c.out.repeated) Find(c, command.job);
    return;
  }
  Job* job = FindLive(c, command.job, "paused");
  if (job == nullptr) return;
  if (job->state == JobState::kCancelling) {
    c.out.status = CommandError(absl::StatusCode::kFailedPrecondition, "JOB_CANCELLING",
                                absl::StrCat(InWords(*job), " is being cancelled"));
    return;
  }
  Remember(c, command.request);
  if (job->pause_requested) return;
  job->pause_requested = true;
  Save(c, *job);
  if (job->state == JobState::kResizing && job->stop == StopPurpose::kNone) {
    // The new generation does not train yet: there is nothing to write.
    Move(c, *job, JobState::kPausing, "paused as asked while it was starting again");
    ReleaseDevices(c, *job);
    Settle(c, *job);
  } else if (job->state == JobState::kRunning || job->state == JobState::kResizing) {
    RequestStop(c, *job, StopPurpose::kPause, "paused as asked: writes a checkpoint and stops");
  } else if (job->state == JobState::kStarting) {
    ReleaseDevices(c, *job);
    Move(c, *job, JobState::kQueued, "paused as asked before it had started");
  } else if (job->state == JobState::kQueued) {
    c.state.reschedule = true;
  }
}

void On(Context& c, const ResumeJob& command) {
  if (Known(c, command.request)) {
    if (c.out.repeated) Find(c, command.job);
    return;
  }
  Job* job = FindLive(c, command.job, "resumed");
  if (job == nullptr) return;
  if (!job->pause_requested) {
    c.out.status = CommandError(absl::StatusCode::kFailedPrecondition, "JOB_NOT_PAUSED",
                                absl::StrCat(InWords(*job), " is ", StateName(job->state),
                                             " and not paused: there is nothing to resume"));
    return;
  }
  Remember(c, command.request);
  job->pause_requested = false;
  Save(c, *job);
  if (job->state == JobState::kPaused) {
    Move(c, *job, JobState::kQueued, "resumed");
  } else if (job->state == JobState::kPausing) {
    Explain(c, *job, "resumed before it had stopped: goes on when its members are gone");
  } else {
    c.state.reschedule = true;
  }
}

void On(Context& c, const ScaleJob& command) {
  if (Known(c, command.request)) {
    if (c.out.repeated) Find(c, command.job);
    return;
  }
  Job* job = FindLive(c, command.job, "scaled");
  if (job == nullptr) return;
  if (command.max > job->wish.accumulation_steps) {
    c.out.status = CommandError(
        absl::StatusCode::kInvalidArgument, "INVALID_FIELD",
        absl::StrCat("max: ", command.max, " is more than the job's accumulation_steps (",
                     job->wish.accumulation_steps,
                     "): a rank without a microbatch would only wait; use at most that many"));
    return;
  }
  Remember(c, command.request);
  job->wish.min_workers = command.min;
  job->wish.max_workers = command.max;
  Save(c, *job);
  c.state.reschedule = true;
  Scaled(c, *job);
}

void On(Context& c, const DeleteJob& command) {
  if (Known(c, command.request)) return;
  Job* job = Find(c, command.job);
  if (job == nullptr) return;
  if (!job->final()) {
    c.out.status =
        CommandError(absl::StatusCode::kFailedPrecondition, "JOB_LIVE",
                     absl::StrCat(InWords(*job), " is ", StateName(job->state),
                                  ": cancel it first (mindforge job cancel ", job->wish.name, ")"));
    return;
  }
  for (const auto& [name, deployment] : c.state.deployments) {
    if (deployment.job != job->id) continue;
    c.out.status =
        CommandError(absl::StatusCode::kFailedPrecondition, "JOB_DEPLOYED",
                     absl::StrCat("deployment ", name, " serves ", InWords(*job),
                                  ": delete it first (mindforge model delete ", name, ")"));
    return;
  }
  Remember(c, command.request);
  if (!job->members.empty()) ReleaseDevices(c, *job);
  const JobId id = job->id;
  c.out.changes.deleted_jobs.push_back(id);
  std::erase_if(c.state.delete_orders, [&](const auto& entry) { return entry.second.job == id; });
  EraseJob(c, id);
  c.out.ended_jobs.push_back(id);
}

void On(Context& c, const DrainWorker& command) {
  const Worker* found = FindWorker(c.state, command.worker);
  if (found == nullptr) {
    c.out.status =
        CommandError(absl::StatusCode::kNotFound, "WORKER_NOT_FOUND",
                     absl::StrCat("there is no worker with the name or id '", command.worker,
                                  "': `mindforge worker list` shows all"));
    return;
  }
  c.out.name = found->id.value();
  if (Known(c, command.request)) return;
  Remember(c, command.request);
  Worker& worker = c.state.workers.at(found->id);
  if (!command.drained) ForgetFaults(c, worker);
  if (worker.drained == command.drained) return;
  worker.drained = command.drained;
  c.dirty_workers.insert(worker.id);
  c.out.touched_workers.insert(worker.id);
  c.out.log.push_back(absl::StrCat("worker ", worker.id.value(), " (", worker.name, ") ",
                                   command.drained ? "drains" : "takes work again", " as asked"));
  c.state.reschedule = true;
}

void On(Context& c, const ChangeCheckpoint& command) {
  if (Known(c, command.request)) {
    if (c.out.repeated) Find(c, command.job);
    return;
  }
  Job* job = Find(c, command.job);
  if (job == nullptr) return;
  if (Change(c, *job, command)) Remember(c, command.request);
}

}  // namespace mindforge::sched
