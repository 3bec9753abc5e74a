#include "coordinator/scheduler/schedule.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/membership.h"

namespace mindforge::sched {
namespace {

// Jobs whose reason is worked out in full while no device is free: bounds a pass over a long queue.
constexpr int kReasonsInFull = 16;

bool AnyFree(const std::vector<Candidate>& all) {
  return std::any_of(all.begin(), all.end(), [](const Candidate& c) { return c.holder.empty(); });
}

// Marks what `job` could use, so that jobs behind it do not take it.
void KeepFor(const Job& job, const PlacementRequest& request, std::vector<Candidate>& all) {
  for (Candidate& candidate : all) {
    if (candidate.holder.empty() && Suits(request, candidate)) {
      candidate.holder = absl::StrCat("a device of worker ", candidate.worker_name, " is kept for ",
                                      InWords(job), ", which is ahead");
    }
  }
}

// More devices would make a step shorter and may be about to register. True: wait.
bool Gather(Context& c, Job& job, const Placement& placement) {
  if (!placement.fewer_rounds_with_more || job.generation.value() > 0) return false;
  if (job.gather_until == -absl::InfiniteDuration()) {
    job.gather_until = c.now.mono + c.state.settings.gather_window;
  }
  if (c.now.mono >= job.gather_until) return false;
  FallsDue(c, job.gather_until);
  Explain(c, job,
          absl::StrCat("could start on ", placement.ranks.size(), ", waits up to ",
                       absl::FormatDuration(c.state.settings.gather_window),
                       " for more devices (workers.max is ", job.wish.max_workers, ")"));
  return true;
}

void PlaceOne(Context& c, Job& job, std::vector<Candidate>& all, bool* waiting) {
  const PlacementRequest request = RequestOf(job);
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
  for (const Candidate& rank : placement.ranks) {
    for (Candidate& candidate : all) {
      if (candidate.place == rank.place) {
        candidate.holder = absl::StrCat("worker ", candidate.worker_name, " holds ", InWords(job));
      }
    }
  }
  Start(c, job, placement);
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
  for (const JobId& id : active) GrowAndMove(c, c.state.jobs.at(id), any_free && !waiting);
}

}  // namespace mindforge::sched
