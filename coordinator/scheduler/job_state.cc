#include "coordinator/scheduler/job_state.h"

#include "common/check.h"

namespace mindforge::sched {

bool IsFinal(JobState state) {
  return state == JobState::kCancelled || state == JobState::kSucceeded ||
         state == JobState::kFailed;
}

bool MayFollow(JobState from, JobState to) {
  using enum JobState;
  if (IsFinal(from)) return false;
  if (to == kFailed) return true;
  if (to == kCancelling) return from != kCancelling;
  switch (from) {
    case kQueued:
      return to == kStarting;
    case kStarting:
      return to == kRunning || to == kQueued;
    case kRunning:
      return to == kResizing || to == kPausing || to == kSucceeded;
    case kResizing:
      return to == kRunning || to == kQueued || to == kPausing;
    case kPausing:
      return to == kPaused || to == kQueued;
    case kPaused:
      return to == kQueued;
    case kCancelling:
      return to == kCancelled;
    default:
      return false;
  }
}

void Transition(JobState* state, JobState to) {
  MF_CHECK(MayFollow(*state, to)) << "no arrow leads from " << StateName(*state) << " to "
                                  << StateName(to);
  *state = to;
}

const char* StateName(JobState state) {
  switch (state) {
    case JobState::kQueued:
      return "QUEUED";
    case JobState::kStarting:
      return "STARTING";
    case JobState::kRunning:
      return "RUNNING";
    case JobState::kResizing:
      return "RESIZING";
    case JobState::kPausing:
      return "PAUSING";
    case JobState::kPaused:
      return "PAUSED";
    case JobState::kCancelling:
      return "CANCELLING";
    case JobState::kCancelled:
      return "CANCELLED";
    case JobState::kSucceeded:
      return "SUCCEEDED";
    case JobState::kFailed:
      return "FAILED";
  }
  return "UNKNOWN";
}

}  // namespace mindforge::sched
