#include "coordinator/scheduler/retention.h"

#include <algorithm>

#include "coordinator/scheduler/state.h"

namespace mindforge::sched {

std::vector<int64_t> ExpiredCheckpoints(const RetentionPolicy& policy,
                                        const std::map<int64_t, Checkpoint>& checkpoints,
                                        const std::set<std::string>& served) {
  std::vector<int64_t> expired;
  int64_t good = 0;
  for (auto it = checkpoints.rbegin(); it != checkpoints.rend(); ++it) {
    const auto& [step, checkpoint] = *it;
    if (checkpoint.state != CheckpointState::kCommitted) continue;
    if (++good <= std::max<int64_t>(policy.keep_last, 1)) continue;
    if (policy.keep_every > 0 && step % policy.keep_every == 0) continue;
    if (checkpoint.pinned || checkpoint.verification == Verification::kPending) continue;
    if (served.count(WeightsVersion(checkpoint)) > 0) continue;
    expired.push_back(step);
  }
  std::reverse(expired.begin(), expired.end());
  return expired;
}

}  // namespace mindforge::sched
