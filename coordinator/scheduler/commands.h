// What people ask for: jobs, workers, checkpoints. Internal to this room.
//
// Every command is idempotent by its request id: a known one does nothing and is answered with what
// the state says now.
#pragma once

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

void On(Context& c, const SubmitJob& command);
void On(Context& c, const CancelJob& command);
void On(Context& c, const PauseJob& command);
void On(Context& c, const ResumeJob& command);
void On(Context& c, const ScaleJob& command);
void On(Context& c, const RepinJob& command);
void On(Context& c, const DeleteJob& command);
void On(Context& c, const ChangeCheckpoint& command);
void On(Context& c, const DrainWorker& command);

// True when the request was seen before: the outcome then says so, or that the id was another
// call's.
bool Known(Context& c, const Request& request);
// Notes that the request is done. `job`: the one it submitted.
void Remember(Context& c, const Request& request, const JobId& job = JobId());

}  // namespace mindforge::sched
