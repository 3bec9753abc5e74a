// The scheduler: one pure function. No clock, thread, lock, gRPC, SQL or logging inside; the same
// state, time and event give the same outcome.
//
// The state is changed in place, not copied: ten thousand jobs would make each heartbeat a copy.
#pragma once

#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/state.h"

namespace mindforge::sched {

// Runs what has fallen due, then `event`, then places what can be placed.
Outcome Step(State& state, const Now& now, const Event& event);

}  // namespace mindforge::sched
