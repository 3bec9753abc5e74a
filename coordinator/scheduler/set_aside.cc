#include "coordinator/scheduler/set_aside.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace mindforge::sched {
namespace {

// Failures on several devices within so long are taken for the job's own.
constexpr absl::Duration kSameCause = absl::Hours(1);
constexpr size_t kMaxFaultBytes = 300;

DeviceFaults* FaultsAt(State& state, const MemberPlace& place) {
  const auto worker = state.workers.find(place.worker);
  if (worker == state.workers.end()) return nullptr;
  const auto faults = worker->second.faults.find(place.device);
  return faults == worker->second.faults.end() ? nullptr : &faults->second;
}

void Extend(Context& c, SetAside& aside) {
  const absl::Duration pause = SetAsideFor(aside.times++);
  aside.until = c.now.mono + pause;
  aside.until_wall = c.now.wall + pause;
  FallsDue(c, aside.until);
}

// True when the device is set aside for everybody by it.
bool Add(Context& c, Worker& worker, const std::string& device, const DeviceFault& fault) {
  DeviceFaults& faults = worker.faults[device];
  if (faults.in_a_row.size() >= kMaxFaults) faults.in_a_row.erase(faults.in_a_row.begin());
  const int before = FaultsForAll(faults);
  faults.in_a_row.push_back(fault);
  std::erase_if(faults.for_jobs, [&](const auto& e) { return !IsUnfitFor(faults, e.first); });
  if (fault.unfit) Extend(c, faults.for_jobs[fault.job]);
  const int now = FaultsForAll(faults);
  if (now == before || now < kFaultsToSetAside) return false;
  Extend(c, faults.for_all);
  return true;
}

// True when the job has failed on another device not long ago.
bool IsOwnMaking(Context& c, Job& job, const MemberPlace& place) {
  std::erase_if(job.failed_on, [&](const auto& e) { return c.now.mono - e.second >= kSameCause; });
  job.failed_on[{place.worker, place.device}] = c.now.mono;
  return job.failed_on.size() > 1;
}

// What the job did to devices is not held against them any more.
void Acquit(Context& c, const Job& job) {
  for (const auto& [place, at] : job.failed_on) {
    DeviceFaults* const faults = FaultsAt(c.state, {place.first, place.second});
    if (faults == nullptr) continue;
    const size_t erased = std::erase_if(faults->in_a_row, [&](const DeviceFault& fault) {
      return !fault.unfit && fault.job == job.id;
    });
    if (erased > 0 && faults->in_a_row.empty()) {
      c.state.workers.at(place.first).faults.erase(place.second);
      c.state.reschedule = true;
    }
  }
}

}  // namespace

void NoteFault(Context& c, Job& job, const MemberPlace& place, bool unfit,
               const std::string& text) {
  const auto found = c.state.workers.find(place.worker);
  if (found == c.state.workers.end()) return;
  Worker& worker = found->second;
  const DeviceFault fault{job.id, unfit, Shortened(text, kMaxFaultBytes)};
  if (unfit) {
    for (const Device& device : worker.devices) Add(c, worker, device.id, fault);
    c.out.log.push_back(absl::StrCat("worker ", worker.id.value(), " (", worker.name,
                                     ") is left out for ", InWords(job),
                                     " for a while: ", fault.text));
    return;
  }
  if (IsOwnMaking(c, job, place)) return Acquit(c, job);
  if (!Add(c, worker, place.device, fault)) return;
  c.out.log.push_back(absl::StrCat("worker ", worker.id.value(), " (", worker.name, "): device ",
                                   place.device, " ",
                                   SetAsideInWords(worker.faults.at(place.device), JobId())));
}

void NoteGoodRun(Context& c, Job& job, const MemberPlace& place) {
  job.failed_on.clear();
  const auto worker = c.state.workers.find(place.worker);
  if (worker != c.state.workers.end() && worker->second.faults.erase(place.device) > 0) {
    c.state.reschedule = true;
  }
}

void ForgetFaults(Context& c, Worker& worker) {
  if (worker.faults.empty()) return;
  worker.faults.clear();
  c.state.reschedule = true;
}

}  // namespace mindforge::sched
