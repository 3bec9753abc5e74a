// What the parts of Step share: the state under change, the time, the outcome so far, and the small
// changes that keep records, indexes and outcome in step with each other. Internal to this room.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/placement.h"
#include "coordinator/scheduler/state.h"

namespace mindforge::sched {

struct Context {
  State& state;
  const Now& now;
  Outcome& out;
  // Whose rows are to be written when the step ends.
  std::set<JobId> dirty_jobs;
  std::set<WorkerId> dirty_workers;
  std::set<std::pair<JobId, int64_t>> dirty_checkpoints;
};

// Copies the rows that became dirty into the outcome.
void CollectRows(Context& c);

// The step is to be run again no later than `at`.
void FallsDue(Context& c, absl::Duration at);

// Watchers of the job see something new; nothing durable changed.
void Touch(Context& c, Job& job);
// The job's record changed.
void Save(Context& c, Job& job);
// Says why the job is as it is. Does nothing when that is what it says already.
void Explain(Context& c, Job& job, std::string reason);
// Takes the job to another state and says why. REQUIRES: an arrow leads there.
void Move(Context& c, Job& job, JobState to, std::string reason);

// Notes what a chart of the job's training marks at `step`.
void Mark(Context& c, Job& job, MilestoneKind kind, int64_t step, std::string text);

// Adds and removes a job with its entries in all indexes.
Job& InsertJob(State& state, Job job);
void EraseJob(Context& c, const JobId& id);

// The worker is not known any more. REQUIRES: it holds no job.
void ForgetWorker(Context& c, const WorkerId& id);

// Gives the job these devices, by rank, in place of those it held.
void HoldDevices(Context& c, Job& job, std::vector<MemberPlace> places);
// The job holds no device any more.
void ReleaseDevices(Context& c, Job& job);
// What the workers of the job should do may have changed.
void WakeMembers(Context& c, const Job& job);

// Every device of a live worker, free or not, as `job` (null: nobody) would see it. A lost worker's
// are left out; so are a draining one's. Points into the state.
std::vector<Candidate> AllCandidates(const State& state, const Job* job);
PlacementRequest RequestOf(const Context& c, const Job& job);
QueueKey KeyOf(const Job& job);

std::string WorkerName(const State& state, const WorkerId& id);
// "job 'name'".
std::string InWords(const Job& job);

// At most `bytes` of the text, whole characters.
std::string Shortened(std::string text, size_t bytes);

// An error of a command, with its reason in UPPER_SNAKE.
absl::Status CommandError(absl::StatusCode code, std::string_view reason, std::string message);

// Appends what is to be measured.
void Record(Context& c, Measure what, std::string label, double value = 1);

}  // namespace mindforge::sched
