// A job's members: losing them, stopping them, and forming the next generation. Internal to this
// room.
#pragma once

#include <string>

#include "coordinator/scheduler/context.h"
#include "coordinator/scheduler/retry.h"

namespace mindforge::sched {

// The generation cannot go on: the next one forms at once where it can, else the job is queued.
// REQUIRES: STARTING, RUNNING or RESIZING.
void Restart(Context& c, Job& job, const std::string& cause, std::string reason);

// The trainer of `rank` ended, or is known to be gone.
void MemberEnded(Context& c, Job& job, int rank, const Judgement& judgement);

// Tells the members to checkpoint and stop. REQUIRES: RUNNING or RESIZING.
void RequestStop(Context& c, Job& job, StopPurpose purpose, const std::string& reason);

// Moves a job on when its members' states allow it: all train, all are gone, rank 0 has finished.
void Settle(Context& c, Job& job);

// The job is done: its last step's checkpoint is committed. Does nothing while it is being paused.
void Succeed(Context& c, Job& job);

void Fail(Context& c, Job& job, const std::string& reason);

// True when its members were told to stop.
bool Stopping(const Job& job);

// True for a queued job that takes devices when there are some.
bool WantsDevices(const Context& c, const Job& job);

// "trains on 2 devices", and what goes wrong meanwhile.
std::string TrainsInWords(const Job& job);

// True when the job's last step is in its newest committed checkpoint.
bool AllStepsCommitted(const State& state, const Job& job);

// Puts a queued job on these devices as its next generation.
void Start(Context& c, Job& job, const Placement& placement);

// A running job with more members than it may have stops for that; one with members on a draining
// worker leaves it; one takes free devices when a step would then take fewer rounds: at once when a
// person scaled it, who is told why not otherwise, else where `may_grow` and not too often.
void GrowAndMove(Context& c, Job& job, bool may_grow);

}  // namespace mindforge::sched
