#include "worker/train/step_report.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace mindforge {

std::string ProgressLine(const StepRecord& record, const StepPosition& position, int64_t epochs,
                         int64_t steps_per_epoch, absl::Duration left) {
  return absl::StrFormat(
      "Epoch:[%d/%d](%d/%d) loss:%.6f lr:%.12f epoch_Time:%.1fmin:", position.epoch + 1,
      std::max(epochs, position.epoch + 1), position.step_in_epoch + 1, steps_per_epoch,
      record.loss, record.learning_rate, absl::ToDoubleMinutes(left));
}

}  // namespace mindforge
