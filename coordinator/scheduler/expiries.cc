#include "coordinator/scheduler/expiries.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

constexpr double kSlowStep = 3;  // a step may take so many times the last one's time

void Expire(Context& c, SetAside& aside) {
  if (c.now.mono < aside.until) {
    FallsDue(c, aside.until);
  } else {
    aside.until = -absl::InfiniteDuration();
  }
}

void ExpireLeases(Context& c) {
  std::vector<WorkerId> forgotten;
  for (auto& [id, worker] : c.state.workers) {
    const absl::Duration due = worker.lease_from + c.state.settings.worker_lease;
    for (auto& [device, faults] : worker.faults) {
      Expire(c, faults.for_all);
      for (auto& [job, aside] : faults.for_jobs) Expire(c, aside);
    }
    if (!worker.lost && c.now.mono < due) {
      FallsDue(c, due);
      continue;
    }
    if (!worker.lost) {
      worker.lost = true;
      c.state.reschedule = true;
      c.out.log.push_back(absl::StrCat("worker ", id.value(), " (", worker.name, "): no word for ",
                                       absl::FormatDuration(c.state.settings.worker_lease),
                                       ", its lease ran out"));
      // Others look after its folders.
      for (const auto& [other, record] : c.state.workers) c.out.touched_workers.insert(other);
    }
    const absl::Duration forget = worker.lease_from + c.state.settings.forget_worker_after;
    const auto held = c.state.holders.lower_bound({id, ""});
    const bool holds = held != c.state.holders.end() && held->first.first == id;
    if (c.now.mono >= forget && !holds) {
      forgotten.push_back(id);
    } else {
      FallsDue(c, std::max(forget, c.now.mono + absl::Minutes(1)));
    }
  }
  for (const WorkerId& id : forgotten) ForgetWorker(c, id);
}

struct Silence {
  std::vector<int> silent;                           // ranks
  int there = 0;                                     // ranks whose workers are not silent
  absl::Duration since = -absl::InfiniteDuration();  // the last word of any silent one
  std::string workers;
};

Silence SilenceOf(const State& state, const Job& job) {
  Silence silence;
  for (size_t rank = 0; rank < job.members.size(); ++rank) {
    if (job.live[rank].gone) continue;
    const Worker& worker = state.workers.at(job.members[rank].worker);
    if (!worker.lost) {
      ++silence.there;
      continue;
    }
    silence.silent.push_back(static_cast<int>(rank));
    silence.since = std::max(silence.since, worker.lease_from);
    absl::StrAppend(&silence.workers, silence.workers.empty() ? "" : ", ", worker.name);
  }
  return silence;
}

void LoseSilent(Context& c, Job& job, const Silence& silence, const std::string& why) {
  const Generation generation = job.generation;
  for (const int rank : silence.silent) {
    if (job.generation != generation || job.members.empty()) return;  // it has moved on
    MemberEnded(c, job, rank, {Verdict::kNotCounted, "worker_lost", why});
  }
}

// Nobody of the job is heard of: its members may well train on, so there is time.
void AllSilent(Context& c, Job& job, const Silence& silence) {
  const absl::Duration timeout = c.state.settings.unreachable_timeout;
  const absl::Duration due = silence.since + timeout;
  if (c.now.mono >= due) {
    LoseSilent(c, job, silence,
               absl::StrCat("no word from any member for ", absl::FormatDuration(timeout)));
    return;
  }
  FallsDue(c, due);
  if (job.all_silent_since) return;
  job.all_silent_since = silence.since;
  Explain(c, job,
          absl::StrCat("no word from any of its members (", silence.workers,
                       "), which may train on unseen: starts elsewhere after ",
                       absl::FormatDuration(timeout), " of silence"));
}

void CheckSilence(Context& c, Job& job) {
  const Silence silence = SilenceOf(c.state, job);
  if (silence.silent.empty()) {
    if (job.all_silent_since) {
      job.all_silent_since.reset();
      Explain(c, job, "its members are heard of again");
    }
    return;
  }
  if (!job.active()) {  // being cancelled, or done: nobody waits for the lost
    return LoseSilent(c, job, silence, "its lease ran out");
  }
  if (silence.there == 0) return AllSilent(c, job, silence);
  const absl::Duration patience =
      std::max(c.state.settings.worker_lease,
               absl::Seconds(std::min(kSlowStep * job.progress.step_seconds, 3600.0)));
  const absl::Duration due = job.progress_since + patience;
  if (c.now.mono < due) return FallsDue(c, due);  // its peers get ahead: it is there
  LoseSilent(c, job, silence,
             absl::StrCat("no word for ", absl::FormatDuration(c.state.settings.worker_lease),
                          " and no progress from its peers: its worker counts as lost"));
}

void CheckStop(Context& c, Job& job) {
  if (job.stop_by == absl::InfiniteDuration()) return;
  if (c.now.mono < job.stop_by) return FallsDue(c, job.stop_by);
  job.stop_by = absl::InfiniteDuration();
  if (!job.active()) {
    for (MemberLive& live : job.live) live.gone = true;
    return Settle(c, job);
  }
  if (job.state != JobState::kPausing && job.stop == StopPurpose::kNone) {
    return Restart(c, job, "no_result", "every rank ended but no final checkpoint was reported");
  }
  c.out.log.push_back(absl::StrCat(
      "job ", job.id.value(), " (", job.wish.name, "): its members did not stop within ",
      absl::FormatDuration(c.state.settings.stop_timeout), " and are killed"));
  for (MemberLive& live : job.live) live.gone = true;
  Settle(c, job);
}

}  // namespace

void RunExpiries(Context& c) {
  if (c.now.mono < c.state.next_expiry) return;
  c.state.next_expiry = absl::InfiniteDuration();
  c.state.reschedule = true;  // gathering, back-off and cool-down end with time
  ExpireLeases(c);
  const std::vector<JobId> active(c.state.active.begin(), c.state.active.end());
  for (const JobId& id : active) CheckStop(c, c.state.jobs.at(id));
  for (const JobId& id : active) {
    Job& job = c.state.jobs.at(id);
    if (!job.members.empty()) CheckSilence(c, job);
  }
}

void RenewLeases(Context& c, const Stalled& stalled) {
  for (auto& [id, worker] : c.state.workers) {
    if (!worker.lost) worker.lease_from = std::max(worker.lease_from, c.now.mono);
  }
  if (!stalled.began) return;
  c.out.log.push_back("the coordinator stood still for a while: all leases begin anew");
}

}  // namespace mindforge::sched
