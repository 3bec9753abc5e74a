#include "coordinator/scheduler/hang.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

// Seconds that a step of the job takes: the newest's, or the average where that is more.
double StepSeconds(const Job& job) {
  const double average =
      job.max_step > 0 ? job.productive_seconds / static_cast<double>(job.max_step) : 0;
  return std::max(job.progress.step_seconds, average);
}

// Steps are made one after the other: nobody starts, ends, or says what it waits for.
bool Steps(const Job& job) {
  if (job.progress.generation != job.generation) return false;
  return std::all_of(job.live.begin(), job.live.end(), [&](const MemberLive& live) {
    return live.phase == Phase::kTraining && live.detail.empty() &&
           (job.progress.total_steps == 0 || live.step < job.progress.total_steps);
  });
}

// True when a standstill of the member would show. Trainers of agents that name no numerics do not
// count what they get done within a step; one that ever did counts on.
bool Tells(const State& state, const MemberPlace& place, const MemberLive& live) {
  if (!live.seen || live.activity > 0) return true;
  const auto worker = state.workers.find(place.worker);
  return worker != state.workers.end() &&
         std::any_of(worker->second.devices.begin(), worker->second.devices.end(),
                     [&](const Device& device) {
                       return device.id == place.device && !device.numerics.empty();
                     });
}

std::string PhaseInWords(const MemberLive& live) {
  const std::string detail = live.detail.empty() ? "" : absl::StrCat(" (", live.detail, ")");
  if (!live.seen) return "while its agent was to start it";
  switch (live.phase) {
    case Phase::kJoining:
      return absl::StrCat("while it waited for the other ranks", detail);
    case Phase::kTraining:
    case Phase::kFinished:
      return absl::StrCat("after step ", live.step, detail);
    default:
      return absl::StrCat("while it started", detail);
  }
}

}  // namespace

void NoteHeard(const Context& c, MemberLive& live, bool is_new) {
  if (is_new || !live.heard_at) {
    live.still_for = absl::ZeroDuration();
  } else {
    live.still_for += std::min(c.now.mono - *live.heard_at, c.state.settings.worker_lease);
  }
  live.heard_at = c.now.mono;
}

absl::Duration HangLimit(const Settings& settings, const Job& job) {
  const absl::Duration steps =
      std::max(settings.hang_timeout,
               std::min(absl::Seconds(std::min(kHangSteps * StepSeconds(job), 1e9)), kLongestHang));
  return Steps(job) ? steps : std::max(steps, settings.start_timeout);
}

void CheckHang(Context& c, Job& job) {
  if (!job.active() || job.members.empty() || Stopping(job)) return;
  int first = -1;  // to stand still
  absl::Duration still = absl::InfiniteDuration();
  for (size_t rank = 0; rank < job.live.size(); ++rank) {
    const MemberLive& live = job.live[rank];
    if (live.gone) continue;
    if (!Tells(c.state, job.members[rank], live)) return;
    still = std::min(still, live.still_for);
    if (first < 0 || live.still_for > job.live[first].still_for) first = static_cast<int>(rank);
  }
  const absl::Duration limit = HangLimit(c.state.settings, job);
  if (first < 0 || still < limit) return;
  MemberEnded(
      c, job, first,
      {Verdict::kIdleCounted, "trainer_hung",
       absl::StrCat("it hangs: got nothing done for ",
                    absl::FormatDuration(absl::Trunc(job.live[first].still_for, absl::Seconds(1))),
                    " ", PhaseInWords(job.live[first]),
                    job.live.size() > 1 ? ", nor did any other rank" : "", " (the limit is ",
                    absl::FormatDuration(limit), "); it is killed"),
       Fault::kDevice});
}

}  // namespace mindforge::sched
