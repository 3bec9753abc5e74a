// What each agent should be doing, derived from the state whenever it is asked for: orders are
// never stored.
#pragma once

#include <string>
#include <vector>

#include "coordinator/scheduler/state.h"

namespace mindforge::sched {

inline constexpr size_t kMaxResumePoints = 16;
inline constexpr size_t kMaxPathsAtOnce = 64;

// What one device should run. The pointers are into the State.
struct DesiredDevice {
  const Device* device = nullptr;
  const Job* job = nullptr;  // null: nothing
  int rank = 0;
  bool stop = false;  // write a checkpoint and stop
};

struct DesiredWorker {
  std::vector<DesiredDevice> devices;  // one for each of the worker
  std::vector<std::string> verify_paths;
  std::vector<std::string> delete_paths;
};

DesiredWorker DesiredFor(const State& state, const Worker& worker, const Now& now);

// Committed checkpoints, newest first.
std::vector<const Checkpoint*> ResumePoints(const State& state, const JobId& job);

// The job's own checkpoint folder.
std::string CheckpointFolder(const Job& job);

}  // namespace mindforge::sched
