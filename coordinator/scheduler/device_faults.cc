#include "coordinator/scheduler/device_faults.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace mindforge::sched {
namespace {

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

}  // namespace

absl::Duration SetAsideFor(int times) {
  return std::min(kFirstSetAside * (1 << std::clamp(times, 0, 10)), kLongestSetAside);
}

int FaultsFor(const DeviceFaults& faults, const JobId& job) {
  const int for_all = FaultsForAll(faults);
  return IsUnfitFor(faults, job) ? std::max(for_all, kFaultsToSetAside) : for_all;
}

bool IsSetAside(const DeviceFaults& faults, const JobId& job, absl::Duration now) {
  return now < faults.until && FaultsFor(faults, job) >= kFaultsToSetAside;
}

std::string FaultsInWords(const DeviceFaults& faults) {
  if (faults.in_a_row.empty()) return "";
  const size_t count = faults.in_a_row.size();
  return absl::StrCat(
      count == 1 ? "a failure" : absl::StrCat(count, " failures in a row, the last"), ": ",
      faults.in_a_row.back().text);
}

std::string SetAsideInWords(const DeviceFaults& faults) {
  return absl::StrCat("is set aside until ",
                      absl::FormatTime("%H:%M:%SZ", faults.until_wall, absl::UTCTimeZone()),
                      " after ", FaultsInWords(faults));
}

}  // namespace mindforge::sched
