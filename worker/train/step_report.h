// What is said about a step: the record for machines and the line for people. Torch-free, pure.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "worker/data/order.h"
#include "worker/train/progress_sink.h"

namespace mindforge {

// Wall seconds of one step's parts.
struct StepTimings {
  double data = 0;
  double compute = 0;
  double exchange = 0;
  double update = 0;
  double vote = 0;
  double stall = 0;  // waiting for a checkpoint's copy or write
  double whole = 0;
};

// The reference's look, whose steps are counted inside the epoch:
// Epoch:[1/1](100/5520) loss:7.074585 lr:0.000549993674 epoch_Time:72.0min:
// `left` is what remains of the epoch.
std::string ProgressLine(const StepRecord& record, const StepPosition& position, int64_t epochs,
                         int64_t steps_per_epoch, absl::Duration left);

}  // namespace mindforge
