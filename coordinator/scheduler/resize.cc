// Running jobs that should have other devices than they have.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/claims.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

// The smallest world size above the present one that the job may have and that is worth a stop: it
// saves a round, or reaches workers.min. 0: none is.
int NextWorldSize(const Job& job) {
  const int world = static_cast<int>(job.members.size());
  const auto most =
      static_cast<int>(std::min<int64_t>(job.wish.max_workers, job.wish.accumulation_steps));
  for (int size = world + 1; size <= most; ++size) {
    if (size < job.wish.min_workers) continue;
    if (world < job.wish.min_workers ||
        Rounds(job.wish.accumulation_steps, size) < Rounds(job.wish.accumulation_steps, world)) {
      return size;
    }
  }
  return 0;
}

std::string ScaledInWords(const Job& job) {
  return absl::StrCat("scaled to ", job.wish.min_workers, " to ", job.wish.max_workers, " workers");
}

void ScaleIsDone(Context& c, Job& job) {
  if (!std::exchange(job.scale_asked, false)) return;
  Save(c, job);
}

std::string WhyItGrows(const Job& job, int possible) {
  const int64_t microbatches = job.wish.accumulation_steps;
  const int world = static_cast<int>(job.members.size());
  return absl::StrCat("grows from ", world, " to ", possible, " devices",
                      job.scale_asked ? absl::StrCat(", ", ScaledInWords(job)) : "", ": a step's ",
                      microbatches, " microbatches then take ", Rounds(microbatches, possible),
                      " rounds instead of ", Rounds(microbatches, world));
}

// What a person wants who scaled the job is done at once or said to be waiting, and for what.
void GrowAsAsked(Context& c, Job& job, int next) {
  const auto stays = [&](const std::string& why) {
    Explain(c, job, absl::StrCat(TrainsInWords(job), "; ", ScaledInWords(job), ", ", why));
  };
  if (next == 0) {
    ScaleIsDone(c, job);
    if (job.members.size() == static_cast<size_t>(job.wish.max_workers)) {
      return Explain(c, job, TrainsInWords(job));
    }
    const int64_t microbatches = job.wish.accumulation_steps;
    const int64_t rounds = Rounds(microbatches, static_cast<int>(job.members.size()));
    return stays(absl::StrCat("which changes nothing: its ", microbatches, " microbatches take ",
                              rounds, rounds == 1 ? " round" : " rounds", " on up to ",
                              job.wish.max_workers, " as well"));
  }
  PlacementRequest request = RequestOf(c, job);
  request.min = std::max(request.min, next);
  request.grows = static_cast<int>(job.members.size()) >= job.wish.min_workers;
  const Placement placement = Place(request, CandidatesFor(c, job));
  if (placement.ranks.empty()) {
    return stays(absl::StrCat("goes on with what it has until then: ", placement.reason));
  }
  const int possible = static_cast<int>(placement.ranks.size());
  const std::string why = WhyItGrows(job, possible);
  ScaleIsDone(c, job);
  RequestStop(c, job, StopPurpose::kResize, why);
}

void GrowByItself(Context& c, Job& job, int next) {
  PlacementRequest request = RequestOf(c, job);
  request.min = std::max(request.min, next);
  const Placement placement = Place(request, AllCandidates(c.state, &job));
  if (placement.ranks.empty()) return;
  const absl::Duration at = job.membership_since + c.state.settings.grow_cooldown;
  if (c.now.mono < at) return FallsDue(c, at);
  RequestStop(c, job, StopPurpose::kResize,
              WhyItGrows(job, static_cast<int>(placement.ranks.size())));
}

}  // namespace

void GrowAndMove(Context& c, Job& job, bool may_grow) {
  if (job.state != JobState::kRunning || job.rank0_finished) return;
  const int world = static_cast<int>(job.members.size());
  if (world > job.wish.max_workers) {
    ScaleIsDone(c, job);
    return RequestStop(
        c, job, StopPurpose::kResize,
        absl::StrCat(ScaledInWords(job), ", has ", world, ": writes a checkpoint and stops"));
  }
  for (const MemberPlace& member : job.members) {
    const Worker& worker = c.state.workers.at(member.worker);
    if (worker.state() == WorkerState::kDraining) {
      return RequestStop(c, job, StopPurpose::kResize,
                         absl::StrCat("leaves worker ", worker.name, ", which is draining"));
    }
  }
  const int next = NextWorldSize(job);
  // Fewer than workers.min is no reason to stop; that more are there at last is one to grow.
  if (job.scale_asked || world < job.wish.min_workers) return GrowAsAsked(c, job, next);
  if (may_grow && next > 0) GrowByItself(c, job, next);
}

}  // namespace mindforge::sched
