// What is said about a step: the record for machines and the line for people. Torch-free, pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/data/order.h"
#include "worker/train/progress_sink.h"
#include "worker/train/step_guard.h"
#include "worker/train/train_options.h"

namespace mindforge {

// Wall seconds of one step's parts.
struct StepTimings {
  double data = 0;
  double compute = 0;
  double exchange = 0;
  double update = 0;
  double vote = 0;
  double validation = 0;
  double stall = 0;  // waiting for a checkpoint's copy or write
  double whole = 0;
};

// What one step leaves behind for its vote and record.
struct StepResult {
  StepVerdict verdict = StepVerdict::kApplied;
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  std::optional<double> loss_scale;
  std::optional<double> validation_loss;
  int64_t tokens = 0;     // of this rank
  int64_t sequences = 0;  // of this rank
  StepTimings timings;
};

// The step's record, but for what depends on the whole run (total_steps, epoch, skipped_steps, mfu)
// or is asked of device and clock. `tokens` and `sequences_by_rank` are of all ranks.
StepRecord RecordOf(int64_t step, const StepResult& result, int64_t tokens,
                    std::vector<int64_t> sequences_by_rank);

// The reference's look, whose steps are counted inside the epoch:
// Epoch:[1/1](100/5520) loss:7.074585 lr:0.000549993674 epoch_Time:72.0min:
// `left` is what remains of the epoch. Behind it what the record has of validation_loss, loss_scale
// and skipped steps.
std::string ProgressLine(const StepRecord& record, const StepPosition& position, int64_t epochs,
                         int64_t steps_per_epoch, absl::Duration left);

// "the loss is nan at step 15 with a learning rate of 0.0005 and grad_clip 1".
std::string NotFiniteInWords(int64_t step, const StepResult& result, const TrainRecipe& recipe);

// Why nan_policy ended the job, and what to do. `checkpointed`: the newest checkpoint's step, none
// below 1.
std::string WhyStopped(int64_t step, const StepResult& result, const TrainRecipe& recipe,
                       const TrainingCounters& counters, int64_t checkpointed);

}  // namespace mindforge
