// Writing the memory of device_faults.h: whose fault an end of a trainer was, and when a device is
// good again. Internal to this room.
#pragma once

#include <string>

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

// A trainer of the job failed at this place. A job that fails on several devices within a while is
// taken for the cause itself: then no device is blamed for it. `unfit`: the worker as a whole
// cannot do this job as it is.
void NoteFault(Context& c, Job& job, const MemberPlace& place, bool unfit, const std::string& text);

// A trainer ended there as it should: the device is good.
void NoteGoodRun(Context& c, Job& job, const MemberPlace& place);

// A person says that the worker is good again.
void ForgetFaults(Context& c, Worker& worker);

}  // namespace mindforge::sched
