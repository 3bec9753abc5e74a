// Who may have which free device: jobs ahead in the queue first, also before one that is starting
// again. Internal to this room.
#pragma once

#include <vector>

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

// Marks the free devices that `job`, which waits, could use, so that jobs behind it do not take
// them.
void KeepFor(const Job& job, const PlacementRequest& request, std::vector<Candidate>& all);

// Marks the devices of a placement as the job's.
void HoldFor(const Job& job, const Placement& placement, std::vector<Candidate>& all);

// True when the job's first start should wait: more devices would make a step shorter and may be
// about to register.
bool ShouldGather(const Context& c, const Job& job, const Placement& placement);

// The devices as a job that holds some may have them: its own, and those free ones that no job
// ahead of it in the queue waits for or is about to get.
std::vector<Candidate> CandidatesFor(const Context& c, const Job& job);

}  // namespace mindforge::sched
