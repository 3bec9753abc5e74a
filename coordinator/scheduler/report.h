// What agents say: who they are, what runs, what their trainers produced. Internal to this room.
#pragma once

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

void On(Context& c, const WorkerReport& report);
void On(Context& c, const WorkerAnswered& event);

}  // namespace mindforge::sched
