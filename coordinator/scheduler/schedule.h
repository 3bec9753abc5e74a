// Placing queued jobs and growing running ones. Internal to this room.
#pragma once

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

// Goes through the queue (priority, then order of submission) and places what fits. A job that
// would fit if devices were free keeps those it could use from the jobs behind it: no gang starves.
void PlaceQueued(Context& c);

}  // namespace mindforge::sched
