// Trainers that run and get nothing done. Internal to this room.
//
// Nothing is concluded from an agent's silence: a trainer stands still only while its agent tells
// that it does, so a job that the coordinator cannot reach is never taken for one that hangs. Nor
// is one whose trainers are of a build that does not tell what it gets done within a step.
#pragma once

#include "absl/time/time.h"
#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

// A step may take so many times as long as the job's steps do.
inline constexpr double kHangSteps = 20;
inline constexpr absl::Duration kLongestHang = absl::Hours(1);

// A member's agent told of it: something `new` or the same as before.
void NoteHeard(const Context& c, MemberLive& live, bool is_new);

// How long all members of the job may stand still, as it is now.
absl::Duration HangLimit(const Settings& settings, const Job& job);

// Ends the generation of a job none of whose members, all heard of, got on for that long; the one
// that stood still first is taken for the cause.
void CheckHang(Context& c, Job& job);

}  // namespace mindforge::sched
