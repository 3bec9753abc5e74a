#include "worker/train/rollback.h"

#include <algorithm>
#include <tuple>

#include "common/status_macros.h"

namespace mindforge {

absl::StatusOr<std::vector<CheckpointFolder>> RollbackPoints(const std::string& dir, int64_t step,
                                                             int64_t every_steps) {
  const int64_t scheduled = every_steps > 0 ? (step - 1) / every_steps * every_steps : 0;
  if (scheduled == 0) return std::vector<CheckpointFolder>();
  ASSIGN_OR_RETURN(std::vector<CheckpointFolder> folders, ListCheckpoints(dir));
  std::erase_if(folders, [step](const CheckpointFolder& folder) { return folder.step >= step; });
  const auto rank = [scheduled](const CheckpointFolder& folder) {
    return std::tuple(folder.step == scheduled, folder.step, folder.generation);
  };
  std::sort(
      folders.begin(), folders.end(),
      [&](const CheckpointFolder& a, const CheckpointFolder& b) { return rank(a) > rank(b); });
  return folders;
}

}  // namespace mindforge
