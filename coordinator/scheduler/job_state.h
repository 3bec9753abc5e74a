// The states of a job and which may follow which. Knows nothing of what a job is.
#pragma once

namespace mindforge::sched {

// QUEUED     -> STARTING                  the scheduler placed it
// STARTING   -> RUNNING                   every member trains
// STARTING   -> QUEUED                    not all came up, or a pause was asked for
// RUNNING    -> RESIZING                  a member was lost, or another world size is wanted
// RESIZING   -> RUNNING                   every member of the new generation trains
// RESIZING   -> QUEUED                    fewer than workers.min are left
// RUNNING, RESIZING -> PAUSING            asked
// PAUSING    -> PAUSED                    every member has stopped
// PAUSING    -> QUEUED                    resumed before it had stopped
// PAUSED     -> QUEUED                    resumed
// RUNNING    -> SUCCEEDED                 the last step's checkpoint is committed
// any state that is not final -> CANCELLING -> CANCELLED     asked
// any state that is not final -> FAILED   an error of the user's, or the budget of failures is
// spent
//
// Each arrow is durable before anybody is told of it.
enum class JobState {
  kQueued = 1,
  kStarting = 2,
  kRunning = 3,
  kResizing = 4,
  kPausing = 5,
  kPaused = 6,
  kCancelling = 7,
  kCancelled = 8,
  kSucceeded = 9,
  kFailed = 10,
};

// True when the arrows above lead from `from` to `to`.
bool MayFollow(JobState from, JobState to);

// Moves `*state` to `to`. REQUIRES: MayFollow(*state, to).
void Transition(JobState* state, JobState to);

// CANCELLED, SUCCEEDED and FAILED: nothing follows.
bool IsFinal(JobState state);

// "QUEUED".
const char* StateName(JobState state);

}  // namespace mindforge::sched
