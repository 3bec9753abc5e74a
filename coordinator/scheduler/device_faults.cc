#include "coordinator/scheduler/device_faults.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace mindforge::sched {
namespace {

// For how long `job` alone is not to have it; null: that is not so.
const SetAside* ForJob(const DeviceFaults& faults, const JobId& job) {
  const auto found = faults.for_jobs.find(job);
  return found == faults.for_jobs.end() || !IsUnfitFor(faults, job) ? nullptr : &found->second;
}

}  // namespace

int FaultsForAll(const DeviceFaults& faults) {
  int own = 0;
  std::set<JobId> unfit_for;
  for (const DeviceFault& fault : faults.in_a_row) {
    if (fault.unfit) {
      unfit_for.insert(fault.job);
    } else {
      ++own;
    }
  }
  return own + (unfit_for.size() > 1 ? static_cast<int>(unfit_for.size()) : 0);
}

bool IsUnfitFor(const DeviceFaults& faults, const JobId& job) {
  return std::any_of(faults.in_a_row.begin(), faults.in_a_row.end(),
                     [&](const DeviceFault& fault) { return fault.unfit && fault.job == job; });
}

absl::Duration SetAsideFor(int times) {
  return std::min(kFirstSetAside * (1 << std::clamp(times, 0, 10)), kLongestSetAside);
}

int FaultsFor(const DeviceFaults& faults, const JobId& job) {
  const int for_all = FaultsForAll(faults);
  return IsUnfitFor(faults, job) ? std::max(for_all, kFaultsToSetAside) : for_all;
}

bool IsSetAside(const DeviceFaults& faults, const JobId& job, absl::Duration now) {
  const SetAside* const for_job = ForJob(faults, job);
  return (for_job != nullptr && now < for_job->until) ||
         (now < faults.for_all.until && FaultsForAll(faults) >= kFaultsToSetAside);
}

std::string FaultsInWords(const DeviceFaults& faults) {
  if (faults.in_a_row.empty()) return "";
  const size_t count = faults.in_a_row.size();
  return absl::StrCat(
      count == 1 ? "a failure" : absl::StrCat(count, " failures in a row, the last"), ": ",
      faults.in_a_row.back().text);
}

std::string SetAsideInWords(const DeviceFaults& faults, const JobId& job) {
  const SetAside* const for_job = ForJob(faults, job);
  const absl::Time until = for_job == nullptr
                               ? faults.for_all.until_wall
                               : std::max(for_job->until_wall, faults.for_all.until_wall);
  return absl::StrCat("is set aside until ",
                      absl::FormatTime("%H:%M:%SZ", until, absl::UTCTimeZone()), " after ",
                      FaultsInWords(faults));
}

}  // namespace mindforge::sched
