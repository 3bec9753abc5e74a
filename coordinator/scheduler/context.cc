#include "coordinator/scheduler/context.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/error_details.h"

namespace mindforge::sched {
namespace {

constexpr size_t kMaxReasonBytes = 2000;

void AddEvent(Context& c, Job& job) {
  JobEvent event{c.now.wall, job.state, job.generation, job.reason};
  ++job.event_count;
  c.out.changes.events.push_back({job.id, {job.event_count, event}});
  job.events.push_back(std::move(event));
  if (job.events.size() > kMaxEventsPerJob) job.events.pop_front();
  c.out.log.push_back(absl::StrCat("job ", job.id.value(), " (", job.wish.name, ") generation ",
                                   job.generation.value(), ": ", StateName(job.state), ": ",
                                   job.reason));
}

}  // namespace

QueueKey KeyOf(const Job& job) { return {-int64_t{job.wish.priority}, job.sequence}; }

std::string Shortened(std::string text, size_t bytes) {
  if (text.size() <= bytes) return text;
  text.resize(bytes);
  // Not in the middle of a character: gRPC refuses to send such a string.
  while (!text.empty() && (text.back() & 0xC0) == 0x80) text.pop_back();
  if (!text.empty() && (text.back() & 0x80) != 0) text.pop_back();
  return text + "...";
}

void CollectRows(Context& c) {
  for (const JobId& id : c.dirty_jobs) {
    const auto it = c.state.jobs.find(id);
    if (it != c.state.jobs.end()) c.out.changes.jobs.push_back(it->second);
  }
  for (const WorkerId& id : c.dirty_workers) {
    const auto it = c.state.workers.find(id);
    if (it != c.state.workers.end()) c.out.changes.workers.push_back(it->second);
  }
  for (const WorkerId& id : c.out.touched_workers) {
    const auto it = c.state.workers.find(id);
    if (it != c.state.workers.end()) ++it->second.desired_version;
  }
  for (const auto& [job, step] : c.dirty_checkpoints) {
    const Checkpoint* checkpoint = FindCheckpoint(c.state, job, step);
    if (checkpoint != nullptr) c.out.changes.checkpoints.push_back(*checkpoint);
  }
}

void FallsDue(Context& c, absl::Duration at) {
  c.state.next_expiry = std::min(c.state.next_expiry, at);
}

void Touch(Context& c, Job& job) {
  ++job.revision;
  c.out.touched_jobs.insert(job.id);
}

void Save(Context& c, Job& job) {
  if (c.dirty_jobs.insert(job.id).second) Touch(c, job);
}

void Explain(Context& c, Job& job, std::string reason) {
  reason = Shortened(std::move(reason), kMaxReasonBytes);
  if (job.reason == reason) return;
  job.reason = std::move(reason);
  AddEvent(c, job);
  Save(c, job);
}

void Move(Context& c, Job& job, JobState to, std::string reason) {
  if (job.state == JobState::kQueued) c.state.queue.erase(KeyOf(job));
  Transition(&job.state, to);
  job.reason = Shortened(std::move(reason), kMaxReasonBytes);
  if (to == JobState::kQueued) {
    c.state.queue[KeyOf(job)] = job.id;
    job.queued_since = c.now.mono;
    job.gather_until = -absl::InfiniteDuration();
    c.state.reschedule = true;
  }
  if (job.final()) {
    job.finished_at = c.now.wall;
    job.stop = StopPurpose::kNone;
    job.pause_requested = false;
    c.state.live_names.erase(job.wish.name);
    c.out.ended_jobs.push_back(job.id);
    c.state.reschedule = c.state.reassign = true;
  }
  AddEvent(c, job);
  Save(c, job);
  WakeMembers(c, job);
}

void Mark(Context& c, Job& job, MilestoneKind kind, int64_t step, std::string text) {
  c.out.changes.milestones.push_back({job.id,
                                      {++job.milestone_count, kind, c.now.wall, step,
                                       Shortened(std::move(text), kMaxReasonBytes)}});
  c.out.touched_jobs.insert(job.id);
}

Job& InsertJob(State& state, Job job) {
  const JobId id = job.id;
  state.by_sequence[job.sequence] = id;
  state.names[job.wish.name][job.sequence] = id;
  if (!job.final()) state.live_names[job.wish.name] = id;
  if (job.state == JobState::kQueued) state.queue[KeyOf(job)] = id;
  if (!job.members.empty() || (job.active() || job.state == JobState::kCancelling)) {
    state.active.insert(id);
  }
  for (size_t rank = 0; rank < job.members.size(); ++rank) {
    state.holders[{job.members[rank].worker, job.members[rank].device}] = {id,
                                                                           static_cast<int>(rank)};
  }
  return state.jobs[id] = std::move(job);
}

void EraseJob(Context& c, const JobId& id) {
  const auto it = c.state.jobs.find(id);
  MF_CHECK(it != c.state.jobs.end()) << "job " << id << " is not there to be erased";
  const Job& job = it->second;
  MF_CHECK(job.final() && job.members.empty()) << "job " << id << " still holds devices";
  c.state.by_sequence.erase(job.sequence);
  const auto names = c.state.names.find(job.wish.name);
  names->second.erase(job.sequence);
  if (names->second.empty()) c.state.names.erase(names);
  c.state.active.erase(id);
  std::erase_if(c.state.folder_work, [&](const auto& work) { return work.first == id; });
  c.state.checkpoints.erase(id);
  c.state.jobs.erase(it);
  c.dirty_jobs.erase(id);
  c.out.touched_jobs.insert(id);
}

void ForgetWorker(Context& c, const WorkerId& id) {
  c.dirty_workers.erase(id);
  c.out.changes.deleted_workers.push_back(id);
  c.state.workers.erase(id);
}

void HoldDevices(Context& c, Job& job, std::vector<MemberPlace> places) {
  ReleaseDevices(c, job);
  job.members = std::move(places);
  job.live.assign(job.members.size(), MemberLive{});
  job.rendezvous.clear();
  job.rank0_finished = false;
  for (size_t rank = 0; rank < job.members.size(); ++rank) {
    const auto& [worker, device] = job.members[rank];
    const bool free =
        c.state.holders.insert({{worker, device}, {job.id, static_cast<int>(rank)}}).second;
    MF_CHECK(free) << "device " << device << " of worker " << worker << " given to two jobs";
  }
  c.state.active.insert(job.id);
  WakeMembers(c, job);
}

void ReleaseDevices(Context& c, Job& job) {
  WakeMembers(c, job);
  for (const MemberPlace& member : job.members) {
    c.state.holders.erase({member.worker, member.device});
  }
  job.members.clear();
  job.live.clear();
  job.rendezvous.clear();
  job.stop_by = absl::InfiniteDuration();
  job.all_silent_since.reset();
  c.state.active.erase(job.id);
  c.state.reschedule = true;
}

void WakeMembers(Context& c, const Job& job) {
  for (const MemberPlace& member : job.members) c.out.touched_workers.insert(member.worker);
}

std::vector<Candidate> AllCandidates(const State& state, const Job* job) {
  std::vector<Candidate> all;
  for (const auto& [id, worker] : state.workers) {
    if (worker.state() != WorkerState::kReady) continue;
    for (const Device& device : worker.devices) {
      Candidate candidate{{id, device.id}, worker.name, device.kind, device.signature, -1, ""};
      candidate.build = worker.version;
      candidate.numerics = &device.numerics;
      if (!worker.faults.empty()) {
        const auto faults = worker.faults.find(device.id);
        candidate.faults = faults == worker.faults.end() ? nullptr : &faults->second;
        candidate.worker_has_faults = true;
      }
      const auto holder = state.holders.find({id, device.id});
      const auto status = worker.statuses.find(device.id);
      if (holder != state.holders.end()) {
        const auto& [holding, rank] = holder->second;
        if (job != nullptr && holding == job->id) {
          candidate.own_rank = rank;
        } else {
          candidate.holder =
              absl::StrCat("worker ", worker.name, " holds ", InWords(state.jobs.at(holding)));
        }
      } else if (status != worker.statuses.end() && !status->second.exit) {
        candidate.holder = absl::StrCat("worker ", worker.name, " is still stopping job ",
                                        status->second.job.value());
      }
      // A member may well train on; if its agent never calls, its lease runs out.
      if (!worker.reported && candidate.own_rank < 0) {
        candidate.holder =
            absl::StrCat("worker ", worker.name, " has not reported since the coordinator started");
      }
      all.push_back(std::move(candidate));
    }
  }
  return all;
}

PlacementRequest RequestOf(const Context& c, const Job& job) {
  return {.min = job.wish.min_workers,
          .max = job.wish.max_workers,
          .accumulation_steps = job.wish.accumulation_steps,
          .kind = job.wish.device,
          .signature = job.device_signature,
          .dtype = job.wish.dtype,
          .newer_fields = job.wish.newer_fields,
          .job_name = job.wish.name,
          .job = job.id,
          .now = c.now.mono};
}

std::string WorkerName(const State& state, const WorkerId& id) {
  const auto it = state.workers.find(id);
  return it == state.workers.end() ? id.value() : it->second.name;
}

std::string InWords(const Job& job) { return absl::StrCat("job ", job.wish.name); }

absl::Status CommandError(absl::StatusCode code, std::string_view reason, std::string message) {
  return Error(code, reason, message);
}

void Record(Context& c, Measure what, std::string label, double value) {
  c.out.measurements.push_back({what, std::move(label), value});
}

}  // namespace mindforge::sched
