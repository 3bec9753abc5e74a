// Which checkpoints of a job go: a stateless policy over its recorded checkpoints.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "coordinator/scheduler/types.h"

namespace mindforge::sched {

struct RetentionPolicy {
  int64_t keep_last = 3;   // at least 1
  int64_t keep_every = 0;  // 0: none
};

// Steps to delete, ascending. Stay: the newest `keep_last` good ones, every step that `keep_every`
// divides, pinned ones, and those whose weights version is in `served`. Corrupt ones stay too: they
// are evidence, and quarantined by the workers; a newer good one does not need them, so a person
// deletes them.
std::vector<int64_t> ExpiredCheckpoints(const RetentionPolicy& policy,
                                        const std::map<int64_t, Checkpoint>& checkpoints,
                                        const std::set<std::string>& served);

}  // namespace mindforge::sched
