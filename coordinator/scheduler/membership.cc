#include "coordinator/scheduler/membership.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/claims.h"
#include "coordinator/scheduler/set_aside.h"

namespace mindforge::sched {
namespace {

// Trainers of a finished job have so long to exit by themselves.
constexpr absl::Duration kWindDown = absl::Seconds(30);

// Of a job's numerics; the first is always kept.
constexpr size_t kMaxNumericsChanges = 64;

std::string GoesOnFrom(const State& state, const Job& job) {
  const Checkpoint* newest = NewestCheckpoint(state, job.id);
  return newest == nullptr ? "from the beginning (it has no checkpoint)"
                           : absl::StrCat("from the checkpoint of step ", newest->step);
}

// Generations whose steps are all done again leave no trace: the list grows with what was
// committed, not with every try.
void AddWorldSize(Job& job, const WorldSizeChange& change) {
  auto& sizes = job.world_sizes;
  while (!sizes.empty() && sizes.back().from_step >= change.from_step) sizes.pop_back();
  if (sizes.size() >= kMaxWorldSizes) sizes.erase(sizes.begin());
  sizes.push_back(change);
}

// The generation is computed with the numerics `name`.
void Pin(Context& c, Job& job, const std::string& name, int64_t from_step) {
  const std::string former = std::exchange(job.device_signature, name);
  const std::string before = job.numerics.empty() ? "" : job.numerics.back().name;
  if (before == name) return;
  if (!former.empty() && former != name && former == before) {
    // Placement takes another name only for the same bits.
    job.numerics.back().name = name;
    return Explain(c, job,
                   absl::StrCat("pinned to the numerics '", name,
                                "', which an earlier build called '", former, "': the same bits"));
  }
  job.numerics.push_back({job.generation, Step(from_step), name});
  if (job.numerics.size() > kMaxNumericsChanges) job.numerics.erase(job.numerics.begin() + 1);
}

void BeginGeneration(Context& c, Job& job, const Placement& placement) {
  std::vector<MemberPlace> places;
  for (const Candidate& candidate : placement.ranks) places.push_back(candidate.place);
  const Checkpoint* newest = NewestCheckpoint(c.state, job.id);
  const int64_t from = newest == nullptr ? 0 : newest->step;
  job.generation = Generation(job.generation.value() + 1);
  Pin(c, job, placement.ranks.front().signature, from);
  job.stop = StopPurpose::kNone;
  job.stop_by = absl::InfiniteDuration();
  job.all_silent_since.reset();
  job.membership_since = job.progress_since = c.now.mono;
  const int before = job.world_sizes.empty() ? 0 : job.world_sizes.back().world_size;
  const int world = static_cast<int>(places.size());
  if (before != 0 && before != world) Record(c, Measure::kWorldSizeChange, "");
  AddWorldSize(job, {job.generation, Step(from), world});
  if (before != world) {
    Mark(c, job, MilestoneKind::kWorldSize, from,
         absl::StrCat("generation ", job.generation.value(), ": ", world,
                      world == 1 ? " rank" : " ranks",
                      before == 0 ? "" : absl::StrCat(" instead of ", before), ", ",
                      GoesOnFrom(c.state, job)));
  }
  if (!job.recovery_cause.empty()) {
    Record(c, Measure::kRecoverySeconds, "placed",
           absl::ToDoubleSeconds(c.now.mono - job.recovery_since));
  }
  HoldDevices(c, job, std::move(places));
  FallsDue(c, c.now.mono + c.state.settings.worker_lease);
}

// The job is not placed again for so long.
void HoldBack(Context& c, Job& job, absl::Duration pause) {
  if (pause <= absl::ZeroDuration()) return;
  job.not_before = std::max(job.not_before, c.now.mono + pause);
  job.retry_at = c.now.wall + (job.not_before - c.now.mono);
  FallsDue(c, job.not_before);
  Save(c, job);
}

// The next generation of a job that has stopped or lost its group, on its own devices and free
// ones; QUEUED when too few are left.
void FormGeneration(Context& c, Job& job, const std::string& why) {
  if (c.now.mono < job.not_before) {
    job.stop = StopPurpose::kNone;
    ReleaseDevices(c, job);
    return Move(c, job, JobState::kQueued, why);
  }
  const Placement placement = Place(RequestOf(c, job), CandidatesFor(c, job));
  if (placement.ranks.empty()) {
    job.stop = StopPurpose::kNone;
    ReleaseDevices(c, job);
    Move(c, job, JobState::kQueued, absl::StrCat(why, "; ", placement.reason));
    return;
  }
  BeginGeneration(c, job, placement);
  Explain(c, job,
          absl::StrCat(why, "; ", placement.reason, ", goes on ", GoesOnFrom(c.state, job)));
  c.state.reschedule = true;  // devices may have become free
}

bool AllGone(const Job& job) {
  return std::all_of(job.live.begin(), job.live.end(),
                     [](const MemberLive& live) { return live.gone; });
}

void Stopped(Context& c, Job& job) {
  if (job.state != JobState::kPausing) {
    job.stop = StopPurpose::kNone;
    FormGeneration(
        c, job, c.now.mono < job.not_before ? job.reason : "its members stopped at a checkpoint");
    return;
  }
  job.stop = StopPurpose::kNone;
  ReleaseDevices(c, job);
  if (job.pause_requested) {
    Move(c, job, JobState::kPaused,
         AllStepsCommitted(c.state, job)
             ? "paused after its last step: resume it to finish"
             : absl::StrCat("paused as asked: goes on ", GoesOnFrom(c.state, job),
                            " when it is resumed"));
  } else {
    Move(c, job, JobState::kQueued, "resumed");
  }
}

// ", but 59 of its 60 steps changed nothing (…)": a result that is not what its steps suggest.
std::string SkippedInWords(const Job& job) {
  const int64_t skipped = job.progress.skipped_steps;
  if (skipped == 0) return "";
  return absl::StrCat(", but ", skipped, " of ", std::max(job.progress.total_steps, job.max_step),
                      skipped == 1 ? " step" : " steps",
                      " changed nothing, as the gradients were not finite");
}

void BecomeRunning(Context& c, Job& job) {
  if (job.started_at == absl::InfinitePast()) job.started_at = c.now.wall;
  if (!job.recovery_cause.empty()) {
    Record(c, Measure::kRecoverySeconds, "running",
           absl::ToDoubleSeconds(c.now.mono - job.recovery_since));
  }
  Move(c, job, JobState::kRunning, TrainsInWords(job));
  c.state.reschedule = true;  // it may have been scaled or lost a worker to draining meanwhile
}

// The furthest step that is known to have been done, ever.
int64_t Reached(const State& state, const Job& job) {
  const Checkpoint* newest = NewestCheckpoint(state, job.id);
  int64_t step = std::max(job.max_step, newest == nullptr ? 0 : newest->step);
  for (const MemberLive& live : job.live) step = std::max(step, live.step);
  return step;
}

// True when an end of a trainer counts: one that is a failure of its own always, any other when no
// step beyond the furthest ever came since the one before. So a loop ends, whatever ends its
// trainers.
bool Counts(Context& c, Job& job, Verdict verdict) {
  if (verdict != Verdict::kCounted && verdict != Verdict::kIdleCounted) return false;
  const int64_t reached = Reached(c.state, job);
  const bool got_on = reached > job.exit_step;
  job.exit_step = std::max(job.exit_step, reached);
  Save(c, job);
  return verdict == Verdict::kCounted || !got_on;
}

// What a failure that counts means for a job that has some left: it waits before it is tried again.
std::string CountFailure(Context& c, Job& job, const std::string& what) {
  const absl::Duration pause = RetryPause(job.failures);
  HoldBack(c, job, pause);
  return absl::StrCat("failed ", job.failures, " of ", std::max(1, job.wish.max_failures),
                      " times: ", what, "; trying again in ", absl::FormatDuration(pause));
}

}  // namespace

bool Stopping(const Job& job) {
  return job.state == JobState::kPausing || job.stop != StopPurpose::kNone;
}

bool WantsDevices(const Context& c, const Job& job) {
  return job.state == JobState::kQueued && !job.pause_requested && c.now.mono >= job.not_before &&
         !AllStepsCommitted(c.state, job);
}

std::string TrainsInWords(const Job& job) {
  const size_t world = job.members.size();
  std::string text = absl::StrCat("trains on ", world, world == 1 ? " device" : " devices");
  if (job.checkpoint_failures > 0) {
    // The first alone, since a restart of this program of what is heard then: with each that
    // follows the job would have another reason, and its newest events, all that is kept, would be
    // these.
    absl::StrAppend(
        &text, "; its checkpoints cannot be written, first known: ", job.first_checkpoint_error);
  }
  return text;
}

bool AllStepsCommitted(const State& state, const Job& job) {
  const Checkpoint* newest = NewestCheckpoint(state, job.id);
  if (newest == nullptr) return false;
  return newest->final || (job.rank0_finished && newest->step >= job.finished_at_step);
}

void Start(Context& c, Job& job, const Placement& placement) {
  BeginGeneration(c, job, placement);
  Record(c, Measure::kQueueWaitSeconds, "", absl::ToDoubleSeconds(c.now.mono - job.queued_since));
  Move(c, job, JobState::kStarting,
       absl::StrCat(placement.reason, ", starts ", GoesOnFrom(c.state, job)));
}

void Restart(Context& c, Job& job, const std::string& cause, std::string reason) {
  if (job.recovery_cause.empty()) {
    job.recovery_cause = cause;
    job.recovery_since = c.now.mono;
  }
  Record(c, Measure::kRecovery, cause);
  ++job.restarts_without_step;
  Mark(c, job, MilestoneKind::kRestart, job.progress.step, reason);
  if (const absl::Duration wait = Backoff(job.restarts_without_step); wait > absl::ZeroDuration()) {
    HoldBack(c, job, wait);
    absl::StrAppend(&reason, "; waits ", absl::FormatDuration(wait), " after ",
                    job.restarts_without_step, " starts without a step of progress");
  }
  job.stop = StopPurpose::kNone;
  if (job.state == JobState::kRunning) Move(c, job, JobState::kResizing, reason);
  if (job.state == JobState::kStarting) {
    ReleaseDevices(c, job);
    return Move(c, job, JobState::kQueued, std::move(reason));
  }
  FormGeneration(c, job, reason);
}

void RequestStop(Context& c, Job& job, StopPurpose purpose, const std::string& reason) {
  const bool stopping_already = Stopping(job);
  job.stop = purpose;
  if (!stopping_already) {
    ++job.stop_sequence;
    job.stop_by = c.now.mono + c.state.settings.stop_timeout;
    FallsDue(c, job.stop_by);
  }
  const JobState to = purpose == StopPurpose::kPause ? JobState::kPausing : JobState::kResizing;
  if (job.state != to) {
    Move(c, job, to, reason);
  } else {
    Explain(c, job, reason);
    Save(c, job);
    WakeMembers(c, job);
  }
  Settle(c, job);
}

void Fail(Context& c, Job& job, const std::string& reason) {
  ReleaseDevices(c, job);
  Move(c, job, JobState::kFailed, reason);
}

void Succeed(Context& c, Job& job) {
  if (job.state == JobState::kQueued) Move(c, job, JobState::kStarting, "all its steps are done");
  if (job.state == JobState::kStarting || job.state == JobState::kResizing) {
    if (job.started_at == absl::InfinitePast()) job.started_at = c.now.wall;
    Move(c, job, JobState::kRunning, "all its steps are done");
  }
  if (job.state != JobState::kRunning) return;
  const Checkpoint* newest = NewestCheckpoint(c.state, job.id);
  job.stop_by = c.now.mono + kWindDown;
  FallsDue(c, job.stop_by);
  Move(c, job, JobState::kSucceeded,
       absl::StrCat("all steps are done", SkippedInWords(job),
                    "; the result is the checkpoint of step ", newest->step, " in ", newest->path));
  Settle(c, job);
}

void MemberEnded(Context& c, Job& job, int rank, const Judgement& judgement) {
  MemberLive& live = job.live[rank];
  live.gone = true;
  c.out.touched_workers.insert(job.members[rank].worker);
  const std::string who = absl::StrCat("rank ", rank, " on worker ",
                                       WorkerName(c.state, job.members[rank].worker), ": ");
  std::string reason = who + judgement.reason;
  if (job.active()) {
    if (judgement.verdict == Verdict::kFailJob) return Fail(c, job, reason);
    if (judgement.fault != Fault::kNone) {
      NoteFault(c, job, job.members[rank], judgement.fault == Fault::kUnfit, judgement.reason);
    }
    if (judgement.verdict == Verdict::kDone) NoteGoodRun(c, job, job.members[rank]);
    if (Counts(c, job, judgement.verdict)) {
      ++job.failures;
      if (judgement.verdict == Verdict::kIdleCounted) {
        absl::StrAppend(&reason, ", with no step beyond ", job.exit_step,
                        " since a trainer ended before");
      }
      if (job.failures >= std::max(1, job.wish.max_failures)) {
        return Fail(c, job,
                    absl::StrCat("failed ", job.failures, " times (max_failures is ",
                                 job.wish.max_failures, "); the last: ", reason));
      }
      reason = CountFailure(c, job, reason);
      if (Stopping(job)) Explain(c, job, reason);
    }
    if (!Stopping(job) && judgement.verdict != Verdict::kDone) {
      return Restart(c, job, judgement.cause, std::move(reason));
    }
    if (!Stopping(job) && live.phase == Phase::kStopped) {
      return Restart(c, job, "stopped_unasked", who + "stopped though it was not asked to");
    }
  }
  Settle(c, job);
}

void Settle(Context& c, Job& job) {
  if (job.state == JobState::kCancelling || job.final()) {
    if (!AllGone(job)) return;
    if (!job.members.empty()) {
      ReleaseDevices(c, job);
      Save(c, job);
    }
    if (!job.final()) Move(c, job, JobState::kCancelled, "cancelled as asked");
    return;
  }
  if (!job.active()) return;
  if (job.state != JobState::kPausing && job.rank0_finished && AllStepsCommitted(c.state, job)) {
    return Succeed(c, job);
  }
  if (Stopping(job)) {
    if (AllGone(job)) Stopped(c, job);
    return;
  }
  if (AllGone(job)) {
    // Every rank finished; rank 0's agent repeats the final checkpoint's report until it is
    // recorded. Without one the last steps are done again.
    if (job.stop_by == absl::InfiniteDuration()) {
      job.stop_by = c.now.mono + kWindDown;
      FallsDue(c, job.stop_by);
    }
    return;
  }
  const bool all_train = std::all_of(job.live.begin(), job.live.end(), [](const MemberLive& m) {
    return m.seen && (m.phase == Phase::kTraining || m.phase == Phase::kFinished);
  });
  if (all_train && job.state != JobState::kRunning) BecomeRunning(c, job);
}

}  // namespace mindforge::sched
