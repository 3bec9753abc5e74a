#include "worker/train/step_report.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mindforge {

StepRecord RecordOf(int64_t step, const StepResult& result, int64_t tokens,
                    std::vector<int64_t> sequences_by_rank) {
  const StepTimings& timings = result.timings;
  StepRecord record{.step = step,
                    .loss = result.loss,
                    .learning_rate = result.learning_rate,
                    .gradient_norm = result.gradient_norm,
                    .tokens = tokens,
                    .tokens_per_second = static_cast<double>(tokens) / timings.whole,
                    .step_seconds = timings.whole,
                    .phase_seconds = {{"data", timings.data},
                                      {"compute", timings.compute},
                                      {"exchange", timings.exchange},
                                      {"update", timings.update},
                                      {"vote", timings.vote}},
                    .checkpoint_stall_seconds = timings.stall,
                    .sequences_by_rank = std::move(sequences_by_rank),
                    .validation_loss = result.validation_loss,
                    .loss_scale = result.loss_scale,
                    .skipped = result.verdict != StepVerdict::kApplied};
  if (timings.validation > 0) record.phase_seconds["validation"] = timings.validation;
  return record;
}

std::string ProgressLine(const StepRecord& record, const StepPosition& position, int64_t epochs,
                         int64_t steps_per_epoch, absl::Duration left) {
  std::string line = absl::StrFormat(
      "Epoch:[%d/%d](%d/%d) loss:%.6f lr:%.12f epoch_Time:%.1fmin:", position.epoch + 1,
      std::max(epochs, position.epoch + 1), position.step_in_epoch + 1, steps_per_epoch,
      record.loss, record.learning_rate, absl::ToDoubleMinutes(left));
  if (record.validation_loss) {
    absl::StrAppendFormat(&line, " validation_loss:%.6f", *record.validation_loss);
  }
  if (record.loss_scale) absl::StrAppendFormat(&line, " loss_scale:%g", *record.loss_scale);
  if (record.skipped_steps > 0) absl::StrAppend(&line, " skipped:", record.skipped_steps);
  return line;
}

std::string NotFiniteInWords(int64_t step, const StepResult& result, const TrainRecipe& recipe) {
  const bool loss = !std::isfinite(result.loss);
  return absl::StrCat(loss ? "the loss is " : "the gradient's norm is ",
                      loss ? result.loss : result.gradient_norm, " at step ", step,
                      " with a learning rate of ", result.learning_rate,
                      recipe.grad_clip > 0 ? absl::StrCat(" and grad_clip ", recipe.grad_clip)
                                           : " and no clipping");
}

std::string WhyStopped(int64_t step, const StepResult& result, const TrainRecipe& recipe,
                       const TrainingCounters& counters, int64_t checkpointed) {
  std::string tried;
  if (recipe.nan_policy == NanPolicy::kRollBack) {
    tried =
        absl::StrCat(" after ", counters.rollbacks_in_a_row, " rollbacks to the same checkpoint");
  } else if (recipe.nan_policy == NanPolicy::kSkip) {
    tried = absl::StrCat(" after ", counters.skipped_in_a_row, " skipped steps in a row");
  }
  return absl::StrCat(
      NotFiniteInWords(step, result, recipe), tried,
      recipe.grad_clip > 0 ? "; lower training.learning_rate or training.grad_clip"
                           : "; lower training.learning_rate or clip (training.grad_clip: 1)",
      " and submit it again as a new job; ",
      checkpointed > 0 ? absl::StrCat("the newest checkpoint is of step ", checkpointed)
                       : "no checkpoint was written yet");
}

}  // namespace mindforge
