// RepinJob: a deliberate change of the numerics that a job's further steps are computed with.
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/scheduler/commands.h"
#include "coordinator/scheduler/context.h"

namespace mindforge::sched {
namespace {

constexpr size_t kNamesShown = 8;

// The names that known workers, here or lost, have for the job's dtype and kind of device.
std::set<std::string> Offered(const State& state, const Job& job) {
  std::set<std::string> names;
  for (const auto& [id, worker] : state.workers) {
    for (const Device& device : worker.devices) {
      if (job.wish.device && *job.wish.device != device.kind) continue;
      const std::string* name = NumericsName(device.numerics, device.signature, job.wish.dtype);
      if (name != nullptr) names.insert(*name);
    }
  }
  return names;
}

// OK when the job may be pinned to `numerics` now.
absl::Status CheckRepin(const State& state, const Job& job, const std::string& numerics) {
  const std::string who = absl::StrCat(InWords(job), " is ", StateName(job.state));
  if (job.final()) {
    return CommandError(absl::StatusCode::kFailedPrecondition, "JOB_ENDED",
                        absl::StrCat(who, " and cannot be repinned: submit it again as a new job"));
  }
  if (job.state == JobState::kCancelling) {
    return CommandError(absl::StatusCode::kFailedPrecondition, "JOB_CANCELLING",
                        absl::StrCat(InWords(job), " is being cancelled"));
  }
  if (!job.members.empty() || job.active()) {
    return CommandError(
        absl::StatusCode::kFailedPrecondition, "JOB_RUNS",
        absl::StrCat(who, " with members that compute: pause it first (mindforge job pause ",
                     job.wish.name, "), repin it when it is PAUSED, then resume it"));
  }
  if (numerics.empty()) return absl::OkStatus();
  const std::set<std::string> offered = Offered(state, job);
  if (offered.count(numerics) > 0) return absl::OkStatus();
  std::vector<std::string> shown(offered.begin(), offered.end());
  if (shown.size() > kNamesShown) shown.resize(kNamesShown);
  return CommandError(
      absl::StatusCode::kFailedPrecondition, "NO_SUCH_NUMERICS",
      absl::StrCat("no worker of the job's kind of device has the numerics '", numerics, "' for ",
                   job.wish.dtype, "; ",
                   shown.empty() ? "none is registered"
                                 : absl::StrCat("there are '", absl::StrJoin(shown, "', '"), "'")));
}

}  // namespace

void On(Context& c, const RepinJob& command) {
  const Job* found = FindJob(c.state, command.job);
  if (found == nullptr) {
    c.out.status = CommandError(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                                absl::StrCat("there is no job with the name or id '", command.job,
                                             "': `mindforge job list` shows all"));
    return;
  }
  const bool known = Known(c, command.request);
  if (c.out.status.ok()) c.out.job = found->id;
  if (known) return;
  Job& job = c.state.jobs.at(found->id);
  c.out.status = CheckRepin(c.state, job, command.numerics);
  if (!c.out.status.ok()) return;
  Remember(c, command.request);
  c.out.name = job.device_signature;
  if (job.device_signature == command.numerics) return;
  const std::string former =
      job.device_signature.empty() ? "nothing" : absl::StrCat("'", job.device_signature, "'");
  job.device_signature = command.numerics;
  // What held it back was about the numerics that it is not pinned to any more.
  job.not_before = -absl::InfiniteDuration();
  job.retry_at = absl::InfinitePast();
  Save(c, job);
  Explain(c, job,
          absl::StrCat("repinned as asked from the numerics ", former, " to ",
                       command.numerics.empty() ? "those of the devices of its next start"
                                                : absl::StrCat("'", command.numerics, "'"),
                       ": its further steps have other last bits than they would have had"));
  c.state.reschedule = true;
}

}  // namespace mindforge::sched
