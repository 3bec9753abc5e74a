#include "coordinator/scheduler/report.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/checkpoints.h"
#include "coordinator/scheduler/hang.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

// A member as it stood before the report, which may form a new generation while it is gone through.
struct Seat {
  JobId job;
  Generation generation;
  int rank = 0;
  std::string device;
};

std::vector<Seat> SeatsOn(const Context& c, const WorkerId& worker) {
  std::vector<Seat> seats;
  for (auto it = c.state.holders.lower_bound({worker, ""});
       it != c.state.holders.end() && it->first.first == worker; ++it) {
    const auto& [job, rank] = it->second;
    seats.push_back({job, c.state.jobs.at(job).generation, rank, it->first.second});
  }
  return seats;
}

// The job of the seat while it still is what it was; null: it has moved on.
Job* StillSeated(Context& c, const WorkerId& worker, const Seat& seat) {
  const auto holder = c.state.holders.find({worker, seat.device});
  if (holder == c.state.holders.end() || holder->second.first != seat.job) return nullptr;
  Job& job = c.state.jobs.at(seat.job);
  return job.generation == seat.generation ? &job : nullptr;
}

void Lost(Context& c, const WorkerId& worker, const Seat& seat, std::string cause,
          std::string reason) {
  Job* job = StillSeated(c, worker, seat);
  if (job == nullptr || job->live[seat.rank].gone) return;
  MemberEnded(c, *job, seat.rank, {Verdict::kNotCounted, std::move(cause), std::move(reason)});
}

// An agent has two calls under way at times: the older may be handled last.
bool IsOvertaken(const State& state, const WorkerReport& report) {
  const auto it = state.workers.find(report.worker.id);
  return it != state.workers.end() && it->second.incarnation == report.worker.incarnation &&
         report.call_number <= it->second.newest_call;
}

void RefuseReplaced(Context& c, const WorkerReport& report) {
  c.out.status = CommandError(
      absl::StatusCode::kAborted, "AGENT_REPLACED",
      absl::StrCat("another agent with the worker id ", report.worker.id.value(),
                   " has taken this one's place: if two are meant to run, give this one a "
                   "--data-dir of its own"));
}

// Lost workers hold no place that a live one needs: the longest lost one that holds no job goes.
void ForgetOneLost(Context& c) {
  const Worker* oldest = nullptr;
  for (const auto& [id, worker] : c.state.workers) {
    const auto held = c.state.holders.lower_bound({id, ""});
    const bool holds = held != c.state.holders.end() && held->first.first == id;
    if (!worker.lost || holds) continue;
    // One that a person drained is to be known as that when it comes back: others go before it.
    const auto key = [](const Worker& w) { return std::pair(w.drained, w.lease_from); };
    if (oldest == nullptr || key(worker) < key(*oldest)) oldest = &worker;
  }
  if (oldest != nullptr) ForgetWorker(c, oldest->id);
}

// False: there are too many, and the call is refused.
bool MakeRoom(Context& c, const WorkerId& id) {
  if (c.state.workers.count(id) > 0 || c.state.workers.size() < kMaxWorkers) return true;
  const auto live = std::count_if(c.state.workers.begin(), c.state.workers.end(),
                                  [](const auto& entry) { return !entry.second.lost; });
  if (live >= static_cast<int64_t>(kMaxWorkers)) {
    c.out.status =
        CommandError(absl::StatusCode::kResourceExhausted, "TOO_MANY_WORKERS",
                     absl::StrCat(kMaxWorkers,
                                  " workers are live already, more than one coordinator serves: "
                                  "stop some, or give this one to another coordinator"));
    return false;
  }
  ForgetOneLost(c);
  return true;
}

// True when the agent is a new process: its trainers are gone.
bool Register(Context& c, const WorkerReport& report) {
  const auto [it, is_new] = c.state.workers.try_emplace(report.worker.id);
  Worker& worker = it->second;
  const WorkerRecord before = worker;
  if (is_new) worker.desired_version = absl::ToUnixMicros(c.now.wall);
  const bool restarted = !is_new && worker.incarnation != report.worker.incarnation;
  static_cast<WorkerRecord&>(worker) = report.worker;
  worker.drained = before.drained;
  worker.acks = worker.spool == before.spool ? before.acks : SpoolAcks{};
  if (is_new || before != worker) {
    c.dirty_workers.insert(worker.id);
    c.state.reschedule = true;
  }
  if (is_new || worker.lost || restarted) {
    c.out.log.push_back(absl::StrCat("worker ", worker.id.value(), " (", worker.name, "): ",
                                     is_new      ? "registered"
                                     : restarted ? "restarted"
                                                 : "is back",
                                     " with ", worker.devices.size(), " devices"));
  }
  if (worker.lost || !worker.reported || worker.stopping != report.stopping) {
    c.state.reschedule = true;
  }
  worker.lost = false;
  worker.reported = true;
  worker.stopping = report.stopping;
  worker.newest_call = report.call_number;
  if (restarted) worker.former_incarnation = before.incarnation;
  worker.lease_from = c.now.mono;
  worker.last_seen = c.now.wall;
  if (restarted) worker.statuses.clear();
  FallsDue(c, c.now.mono + c.state.settings.worker_lease);
  return restarted;
}

// True when a checkpoint of the record's own generation holds its step.
bool IsInCheckpoint(const State& state, const Job& job, const Progress& record) {
  const auto of_job = state.checkpoints.find(job.id);
  if (of_job == state.checkpoints.end()) return false;
  return std::any_of(of_job->second.lower_bound(record.step), of_job->second.end(),
                     [&](const auto& e) { return e.second.generation == record.generation; });
}

// A record of an older generation still counts for the steps that its successors go on from.
bool IsCommittedHistory(const State& state, const Job& job, const Progress& record) {
  if (record.generation == job.generation || IsInCheckpoint(state, job, record)) return true;
  for (const WorldSizeChange& change : job.world_sizes) {
    if (change.generation > record.generation) return record.step <= change.from_step.value();
  }
  return false;
}

// Each step once, whatever is done again and in whichever order the records come.
void CountStep(Job& job, const Progress& record) {
  const bool is_late = record.step <= job.max_step;
  if (is_late && job.missing_steps.erase(record.step) == 0) return;
  job.productive_seconds += record.step_seconds;
  if (!record.skipped) job.tokens += record.tokens;
  if (is_late) return;
  for (int64_t step = job.max_step + 1; step < record.step; ++step) {
    if (job.missing_steps.size() >= kMaxMissingSteps) break;
    job.missing_steps.insert(step);
  }
  job.max_step = record.step;
}

void TakeProgress(Context& c, Job& job, Progress record) {
  if (!IsCommittedHistory(c.state, job, record)) return;
  if (record.skipped) record.loss = job.progress.loss;
  c.out.changes.progress.push_back({job.id, record});
  if (job.first_loss == 0) job.first_loss = record.loss;
  // One that is only done again is no progress.
  if (record.step > job.max_step) job.restarts_without_step = 0;
  CountStep(job, record);
  if (record.generation == job.generation) {
    job.progress_since = c.now.mono;
    if (!job.recovery_cause.empty()) {
      Record(c, Measure::kRecoverySeconds, "first_step",
             absl::ToDoubleSeconds(c.now.mono - job.recovery_since));
      job.recovery_cause.clear();
    }
  }
  const bool newest =
      record.generation > job.progress.generation ||
      (record.generation == job.progress.generation && record.step >= job.progress.step);
  if (newest) {
    if (!record.validation_loss) record.validation_loss = job.progress.validation_loss;
    record.bytes.clear();  // the store has it
    job.progress = std::move(record);
  }
  Touch(c, job);
}

void TakeLog(Context& c, Job& job, const LogLine& line) {
  c.out.changes.logs.push_back({job.id, {++job.log_count, line}});
  c.out.touched_jobs.insert(job.id);
}

// Runs `take` on each item that was not seen before and moves the acknowledgement on.
template <typename T, typename Take>
void Drain(Context& c, const WorkerId& worker, const std::vector<Spooled<T>>& items,
           int64_t SpoolAcks::*ack, Take take) {
  for (const Spooled<T>& spooled : items) {
    Worker& record = c.state.workers.at(worker);
    if (spooled.number <= record.acks.*ack) continue;
    record.acks.*ack = spooled.number;
    c.dirty_workers.insert(worker);
    take(spooled);
  }
}

void TakeSpools(Context& c, const WorkerReport& report) {
  const WorkerId& worker = report.worker.id;
  const auto job_of = [&](const JobId& id) -> Job* {
    const auto it = c.state.jobs.find(id);
    return it == c.state.jobs.end() ? nullptr : &it->second;
  };
  // An older generation's checkpoint says which of its steps count.
  const int64_t heard = c.state.workers.at(worker).acks.checkpoints;
  for (const Spooled<CheckpointWritten>& item : report.checkpoints) {
    if (item.number > heard) Adopt(c, item.job, worker, item.item);
  }
  // Progress before checkpoints: what a checkpoint holds is on record before the job can end.
  Drain(c, worker, report.progress, &SpoolAcks::progress, [&](const Spooled<Progress>& item) {
    if (Job* job = job_of(item.job)) TakeProgress(c, *job, item.item);
  });
  Drain(c, worker, report.logs, &SpoolAcks::logs, [&](const Spooled<LogLine>& item) {
    if (Job* job = job_of(item.job)) TakeLog(c, *job, item.item);
  });
  Drain(c, worker, report.corruptions, &SpoolAcks::corruptions,
        [&](const Spooled<CheckpointCorrupt>& item) { MarkCorrupt(c, item.job, item.item); });
  Drain(c, worker, report.checkpoints, &SpoolAcks::checkpoints,
        [&](const Spooled<CheckpointWritten>& item) { Commit(c, item.job, worker, item.item); });
}

// A disk that takes no checkpoint is to be seen where people look at the job.
void TakeCheckpointFailures(Context& c, Job& job, const DeviceStatus& status) {
  if (job.checkpoint_failures == status.checkpoint_failures) return;
  if (job.checkpoint_failures == 0) job.first_checkpoint_error = status.checkpoint_error;
  if (status.checkpoint_failures == 0) job.first_checkpoint_error.clear();
  job.checkpoint_failures = status.checkpoint_failures;
  job.checkpoint_error = status.checkpoint_error;
  Touch(c, job);
  if (job.state == JobState::kRunning) Explain(c, job, TrainsInWords(job));
}

void UpdateMember(Context& c, Job& job, int rank, const DeviceStatus& status) {
  MemberLive& live = job.live[rank];
  const bool got_on = status.step > live.step || status.phase != live.phase;
  if (got_on) job.progress_since = c.now.mono;
  if (status.detail != live.detail || status.phase != live.phase) Touch(c, job);
  NoteHeard(
      c, live,
      got_on || !live.seen || status.detail != live.detail || status.activity != live.activity);
  live.seen = true;
  live.activity = status.activity;
  live.step = status.step;
  live.phase = status.phase;
  live.detail = status.detail;
  if (rank != 0) return;
  if (!status.rendezvous.empty() && status.rendezvous != job.rendezvous) {
    job.rendezvous = status.rendezvous;
    WakeMembers(c, job);
  }
  if (job.dataset_digest.empty() && !status.dataset_digest.empty()) {
    job.dataset_digest = status.dataset_digest;
    Save(c, job);
  }
  if (status.skipped_lines > 0 && status.skipped_lines != job.skipped_lines) {
    job.skipped_lines = status.skipped_lines;
    Save(c, job);
  }
  if (status.total_steps > 0 && job.progress.total_steps == 0) {
    job.progress.total_steps = status.total_steps;
  }
  TakeCheckpointFailures(c, job, status);
  if (status.phase == Phase::kFinished) {
    job.rank0_finished = true;
    job.finished_at_step = std::max(status.step, int64_t{1});
  }
}

void TakeStatus(Context& c, const WorkerReport& report, const Seat& seat) {
  Job* job = StillSeated(c, report.worker.id, seat);
  if (job == nullptr || job->live[seat.rank].gone) return;
  const bool has_device =
      std::any_of(report.worker.devices.begin(), report.worker.devices.end(),
                  [&](const Device& device) { return device.id == seat.device; });
  if (!has_device) {
    return Lost(c, report.worker.id, seat, "device_gone",
                absl::StrCat("device ", seat.device, " is not there any more"));
  }
  const auto status = std::find_if(report.statuses.begin(), report.statuses.end(),
                                   [&](const DeviceStatus& s) { return s.device == seat.device; });
  const bool mine = status != report.statuses.end() && status->job == seat.job &&
                    status->generation == seat.generation && status->rank == seat.rank;
  if (!mine) {
    const bool never_needed =
        !job->active() || job->state == JobState::kPausing || job->stop != StopPurpose::kNone;
    if (!job->live[seat.rank].seen && !never_needed) {  // not started yet
      return NoteHeard(c, job->live[seat.rank], false);
    }
    return Lost(c, report.worker.id, seat, "trainer_gone", "its trainer is gone");
  }
  UpdateMember(c, *job, seat.rank, *status);
  if (status->exit) {
    Judgement judgement = Judge(*status->exit, status->phase);
    // Its agent is being stopped and ended it, or its end left the others alone: a lost worker.
    if (report.stopping && judgement.verdict == Verdict::kIdleCounted) {
      judgement.verdict = Verdict::kNotCounted;
    }
    MemberEnded(c, *job, seat.rank, judgement);
  } else {
    Settle(c, *job);
  }
}

void NoteStatuses(Context& c, const WorkerReport& report) {
  Worker& worker = c.state.workers.at(report.worker.id);
  std::map<std::string, DeviceStatus> statuses;
  for (const DeviceStatus& status : report.statuses) statuses[status.device] = status;
  const auto busy = [](const auto& all) {
    return std::count_if(all.begin(), all.end(), [](const auto& e) { return !e.second.exit; });
  };
  if (busy(statuses) != busy(worker.statuses)) c.state.reschedule = true;
  worker.statuses = std::move(statuses);
}

}  // namespace

bool IsReplaced(const State& state, const WorkerReport& report) {
  const auto it = state.workers.find(report.worker.id);
  return it != state.workers.end() && it->second.former_incarnation == report.worker.incarnation;
}

void On(Context& c, const WorkerReport& report) {
  if (IsReplaced(c.state, report)) return RefuseReplaced(c, report);
  if (!MakeRoom(c, report.worker.id)) return;
  if (IsOvertaken(c.state, report)) {
    // What it delivers counts, once, whenever it comes; how its devices were does not any more.
    c.out.outdated = true;
    return TakeSpools(c, report);
  }
  const bool restarted = Register(c, report);
  const std::vector<Seat> seats = SeatsOn(c, report.worker.id);
  NoteStatuses(c, report);
  TakeSpools(c, report);
  for (const VerifyResult& result : report.verify_results) {
    Verified(c, report.worker.name, result);
  }
  Deleted(c, report.deleted_paths);
  if (restarted) {
    for (const Seat& seat : seats) {
      Job* job = StillSeated(c, report.worker.id, seat);
      if (job != nullptr && job->live[seat.rank].seen) {
        Lost(c, report.worker.id, seat, "agent_restarted", "its agent was restarted");
      }
    }
  }
  for (const Seat& seat : seats) TakeStatus(c, report, seat);
  for (const Seat& seat : seats) {
    if (Job* job = StillSeated(c, report.worker.id, seat)) CheckHang(c, *job);
  }
}

void On(Context& c, const WorkerAnswered& event) {
  const auto it = c.state.workers.find(event.id);
  if (it != c.state.workers.end()) it->second.lease_from = c.now.mono;
}

}  // namespace mindforge::sched
