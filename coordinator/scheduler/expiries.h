// What falls due with time: leases, silence, stops that take too long. Internal to this room.
#pragma once

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

// Does nothing before State::next_expiry.
void RunExpiries(Context& c);

// All leases begin anew.
void RenewLeases(Context& c, const Stalled& stalled);

}  // namespace mindforge::sched
