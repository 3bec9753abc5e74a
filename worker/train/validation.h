// The loss of the held-out rows: its microbatches are shared by the ranks and their sums added in
// one order in float64, so that it has the same bits at every world size.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "worker/dist/process_group.h"
#include "worker/model/minimind.h"
#include "worker/train/microbatch_loader.h"

namespace mindforge {

// Mean cross entropy of the held-out rows' targets; none when the rows have no target at all, or
// it is not finite. All ranks call it between two steps. Errors as ProcessGroup's.
absl::StatusOr<std::optional<double>> ValidationLoss(Minimind& model, MicrobatchLoader& loader,
                                                     ProcessGroup& group);

}  // namespace mindforge
