// What the end of a trainer means for its job: a stateless policy.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace mindforge::sched {

enum class Verdict {
  kDone,         // it ended as it should
  kFailJob,      // a restart cannot cure it
  kCounted,      // start again; counts against max_failures
  kIdleCounted,  // start again; counts when no new step came since a trainer ended before
  kNotCounted,   // start again: the worker is at fault or lost, not the job
};

// What an end says about where it happened.
enum class Fault {
  kNone,
  kDevice,
  kUnfit,  // the worker cannot do this job as it is
};

struct Judgement {
  Verdict verdict = Verdict::kNotCounted;
  std::string cause;   // bounded label: trainer_killed, trainer_failed, peer_lost…
  std::string reason;  // in words
  Fault fault = Fault::kNone;
};

// `phase` is the last the trainer reported.
Judgement Judge(const TrainerExit& exit, Phase phase);

// How long to wait before the next start after the `failures`th failure that counts: from a second,
// doubling to a minute. What a retry needs (room on a disk, memory) does not come back at once.
inline constexpr absl::Duration kLongestRetryPause = absl::Minutes(1);
absl::Duration RetryPause(int failures);

// How long to wait before the next start after `restarts` in a row without a step of progress: none
// for the first two, then doubling from a second to half a minute.
absl::Duration Backoff(int restarts);

}  // namespace mindforge::sched
