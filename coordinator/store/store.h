// Where the coordinator's records outlive it. An implementation keeps rows and knows nothing of
// what they mean: no clock, no gRPC, no decision.
//
// One contract suite (tests/store/store_contract_test.cc) holds for every implementation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/ids.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/history.h"
#include "coordinator/scheduler/state.h"

namespace mindforge {

// A durable copy of the scheduler's records. Thread-safe; reads do not wait for writes.
class Store {
 public:
  virtual ~Store() = default;

  // Everything but progress records, milestones, log lines and of ended jobs the events and which
  // steps are missing. DATA_LOSS: what is there cannot be read.
  virtual absl::StatusOr<sched::Snapshot> Load() = 0;

  // Makes all changes durable, in order, in one transaction. OK: they survive power loss. On error
  // none of them was made, or (UNKNOWN) it is not known which: the caller ends the process.
  // Progress is kept as the first record of (job, step), log lines as the newest
  // kMaxLogLinesPerJob, events as the newest kMaxEventsPerJob, milestones as the newest
  // kMaxMilestonesPerJob.
  virtual absl::Status Apply(const std::vector<const sched::Changes*>& batch) = 0;

  // Removes at most about `rows` rows that deleted jobs have left; nobody reads them any more.
  // True: there may be more. An interruption loses nothing: the rest goes with a later call.
  virtual absl::StatusOr<bool> Purge(int rows) = 0;

  // The job's records with a step above `after_step`, ascending, at most `limit`.
  virtual absl::StatusOr<std::vector<StoredProgress>> ReadProgress(const JobId& job,
                                                                   int64_t after_step,
                                                                   int limit) = 0;

  // The job's lines with a number above `after`, ascending, at most `limit`; of one rank where
  // `rank` is set.
  virtual absl::StatusOr<std::vector<StoredLog>> ReadLogs(const JobId& job, int64_t after,
                                                          std::optional<int> rank, int limit) = 0;

  // The job's milestones with a number above `after`, ascending, at most `limit`.
  virtual absl::StatusOr<std::vector<sched::Milestone>> ReadMilestones(const JobId& job,
                                                                       int64_t after,
                                                                       int limit) = 0;

  // The job's events that are kept, oldest first.
  virtual absl::StatusOr<std::vector<sched::JobEvent>> ReadEvents(const JobId& job) = 0;
};

}  // namespace mindforge
