#include "coordinator/scheduler/claims.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

// What a queued job would take or keep, if it were its turn.
void Claim(const Context& c, const Job& job, std::vector<Candidate>& all) {
  const PlacementRequest request = RequestOf(c, job);
  std::vector<Candidate> free = all;
  for (Candidate& candidate : free) {
    if (candidate.own_rank >= 0) candidate.holder = "who asks";
  }
  const Placement placement = Place(request, free);
  if (placement.ranks.empty() ? placement.could_fit : ShouldGather(c, job, placement)) {
    KeepFor(job, request, all);
  } else {
    HoldFor(job, placement, all);
  }
}

}  // namespace

void KeepFor(const Job& job, const PlacementRequest& request, std::vector<Candidate>& all) {
  for (Candidate& candidate : all) {
    if (candidate.holder.empty() && candidate.own_rank < 0 && Suits(request, candidate)) {
      candidate.holder = absl::StrCat("a device of worker ", candidate.worker_name, " is kept for ",
                                      InWords(job), ", which is ahead");
    }
  }
}

void HoldFor(const Job& job, const Placement& placement, std::vector<Candidate>& all) {
  for (const Candidate& rank : placement.ranks) {
    for (Candidate& candidate : all) {
      if (candidate.place == rank.place) {
        candidate.holder = absl::StrCat("worker ", candidate.worker_name, " holds ", InWords(job));
      }
    }
  }
}

bool ShouldGather(const Context& c, const Job& job, const Placement& placement) {
  if (!placement.fewer_rounds_with_more || job.generation.value() > 0) return false;
  return job.gather_until == -absl::InfiniteDuration()
             ? c.state.settings.gather_window > absl::ZeroDuration()
             : c.now.mono < job.gather_until;
}

std::vector<Candidate> CandidatesFor(const Context& c, const Job& job) {
  std::vector<Candidate> all = AllCandidates(c.state, &job);
  const auto is_free = [](const Candidate& candidate) {
    return candidate.holder.empty() && candidate.own_rank < 0;
  };
  for (const auto& [key, id] : c.state.queue) {
    if (key > KeyOf(job) || std::none_of(all.begin(), all.end(), is_free)) break;
    const Job& ahead = c.state.jobs.at(id);
    if (id == job.id || !WantsDevices(c, ahead)) continue;
    Claim(c, ahead, all);
  }
  return all;
}

}  // namespace mindforge::sched
