#include "coordinator/scheduler/schedule.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/claims.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

// Jobs whose reason is worked out in full while no device is free: bounds a pass over a long queue.
constexpr int kReasonsInFull = 16;

bool AnyFree(const std::vector<Candidate>& all) {
  return std::any_of(all.begin(), all.end(), [](const Candidate& c) { return c.holder.empty(); });
}

// True: the job waits for devices that may be about to register.
bool Gather(Context& c, Job& job, const Placement& placement) {
  if (!ShouldGather(c, job, placement)) return false;
  if (job.gather_until == -absl::InfiniteDuration()) {
    job.gather_until = c.now.mono + c.state.settings.gather_window;
  }
  FallsDue(c, job.gather_until);
  Explain(c, job,
          absl::StrCat("could start on ", placement.ranks.size(), ", waits up to ",
                       absl::FormatDuration(c.state.settings.gather_window),
                       " for more devices (workers.max is ", job.wish.max_workers, ")"));
  return true;
}

void PlaceOne(Context& c, Job& job, std::vector<Candidate>& all, bool* waiting) {
  const PlacementRequest request = RequestOf(c, job);
  const Placement placement = Place(request, all);
  if (placement.ranks.empty()) {
    job.gather_until = -absl::InfiniteDuration();
    if (placement.could_fit) {
      *waiting = true;
      KeepFor(job, request, all);
    }
    return Explain(c, job, placement.reason);
  }
  if (Gather(c, job, placement)) {
    *waiting = true;
    return KeepFor(job, request, all);
  }
  HoldFor(job, placement, all);
  Start(c, job, placement);
}

// True while a job stops in order to take free devices: until it has them nobody else grows, or
// both would stop for the same ones.
bool AnyGrows(const Context& c) {
  return std::any_of(c.state.active.begin(), c.state.active.end(), [&](const JobId& id) {
    return c.state.jobs.at(id).stop == StopPurpose::kResize;
  });
}

}  // namespace

void PlaceQueued(Context& c) {
  std::vector<Candidate> all = AllCandidates(c.state, nullptr);
  bool any_free = AnyFree(all);
  bool waiting = false;
  int explained = 0;
  const auto& queue = c.state.queue;
  QueueKey key;
  // Placing a job takes it out of the queue: go on by key.
  for (auto it = queue.begin(); it != queue.end(); it = queue.upper_bound(key)) {
    if (!any_free && explained >= kReasonsInFull) break;
    key = it->first;
    Job& job = c.state.jobs.at(it->second);
    if (job.pause_requested) {
      Explain(c, job, "paused as asked: not placed until it is resumed");
      continue;
    }
    if (c.now.mono < job.not_before) {
      FallsDue(c, job.not_before);
      continue;
    }
    if (AllStepsCommitted(c.state, job)) {
      Succeed(c, job);
      continue;
    }
    PlaceOne(c, job, all, &waiting);
    any_free = AnyFree(all);
    ++explained;
  }

  const std::vector<JobId> active(c.state.active.begin(), c.state.active.end());
  for (const JobId& id : active) {
    GrowAndMove(c, c.state.jobs.at(id), any_free && !waiting && !AnyGrows(c));
  }
}

}  // namespace mindforge::sched
