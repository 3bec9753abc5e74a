#include "worker/train/validation.h"

#include <cmath>
#include <vector>

#include "common/status_macros.h"
#include "worker/dist/reduction_tree.h"
#include "worker/dist/step_timeout.h"

namespace mindforge {
namespace {

constexpr uint32_t kValidationTag = 3;

}  // namespace

absl::StatusOr<std::optional<double>> ValidationLoss(Minimind& model, MicrobatchLoader& loader,
                                                     ProcessGroup& group) {
  const int64_t microbatches = loader.held_out_microbatches();
  const int ranks = group.world_size();
  // Every rank sends as many sums as the longest run has; RunOf gives the rest to no one.
  const auto most = static_cast<size_t>((microbatches + ranks - 1) / ranks);
  std::vector<LossSum> mine(most), all(most * static_cast<size_t>(ranks));
  const MicrobatchRange run = RunOf(group.rank(), ranks, microbatches);
  for (int64_t i = run.begin; i < run.end; ++i) {
    ASSIGN_OR_RETURN(const MicrobatchLoader::Loaded loaded, loader.LoadHeldOut(i));
    ASSIGN_OR_RETURN(mine[static_cast<size_t>(i - run.begin)],
                     model.EvaluateLoss(loaded.microbatch));
  }
  RETURN_IF_ERROR(group.AllGather(mine.data(), all.data(),
                                  static_cast<int64_t>(most * sizeof(LossSum)), kValidationTag,
                                  StepTimeout::kCeiling));
  LossSum total;
  for (int rank = 0; rank < ranks; ++rank) {
    const MicrobatchRange theirs = RunOf(rank, ranks, microbatches);
    for (int64_t i = 0; i < theirs.size(); ++i) {
      const LossSum& sum = all[static_cast<size_t>(rank) * most + static_cast<size_t>(i)];
      total.sum += sum.sum;
      total.targets += sum.targets;
    }
  }
  if (total.targets == 0 || !std::isfinite(total.sum)) return std::optional<double>();
  return std::optional<double>(total.sum / static_cast<double>(total.targets));
}

}  // namespace mindforge
