// Taking in what agents report. Internal to this room.
#pragma once

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

void On(Context& c, const WorkerReport& report);
void On(Context& c, const WorkerAnswered& event);

// True for an agent whose successor has registered: what is left of its last call, or a second one
// with a copy of its data folder.
bool IsReplaced(const State& state, const WorkerReport& report);

}  // namespace mindforge::sched
