// Where a job's ranks go: a stateless policy over a snapshot of devices.
//
// A job takes devices of one kind, one name of numerics and one build, all at once or none: builds
// may talk to each other in other words even where their bits are the same. It takes the smallest
// world size that finishes a step in the same number of rounds, since a rank more would only wait.
// Devices that failed come last; those set aside are taken only where there are too few others at
// all, free or held.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/scheduler/types.h"

namespace mindforge::sched {

// One device as placement sees it.
struct Candidate {
  MemberPlace place;
  std::string worker_name;
  DeviceKind kind = DeviceKind::kCpu;
  std::string signature;  // as Device's; in a Placement the numerics' name for the job's dtype
  int own_rank = -1;      // the rank it holds for this job already; -1: none
  std::string holder;     // empty: free; else in words: "worker w2 holds job x"
  const DeviceFaults* faults = nullptr;                     // null: none
  bool worker_has_faults = false;                           // of any of its devices
  std::string build = "";                                   // the worker's version
  const std::vector<TrainingNumerics>* numerics = nullptr;  // the device's; null or empty: none
};

struct PlacementRequest {
  int min = 1;
  int max = 1;
  int64_t accumulation_steps = 1;
  std::optional<DeviceKind> kind;
  std::string signature;  // the numerics it is pinned to; empty: to none yet
  std::string dtype = "";
  std::string newer_fields = "";  // as JobWish's
  std::string job_name = "";      // for what people are told
  JobId job;                      // whose faults count as its own
  absl::Duration now;             // on the monotonic clock
  bool grows = false;             // it runs, and asks for more: only the words differ
};

struct Placement {
  std::vector<Candidate> ranks;         // by rank; empty: it does not fit
  bool fewer_rounds_with_more = false;  // max devices would finish a step sooner than these
  bool could_fit = false;               // it would fit if every device were free
  std::string reason;                   // in words, either way
};

// Microbatches that the busiest of `world_size` ranks computes in a step.
int64_t Rounds(int64_t accumulation_steps, int world_size);

// The smallest world size, at least `min`, that needs as few rounds as `available` ranks would.
int SmallestWorldSize(const PlacementRequest& request, int available);

// "cpu", "cuda".
const char* KindName(DeviceKind kind);

// The name of the device's numerics for `dtype`; null when it does not train with it.
const std::string* NumericsName(const std::vector<TrainingNumerics>& numerics,
                                const std::string& signature, const std::string& dtype);

// True when `candidate` may hold a rank of the job at all, be it free or not.
bool Suits(const PlacementRequest& request, const Candidate& candidate);

// True when the candidate is set aside for the job that asks.
bool IsSetAside(const PlacementRequest& request, const Candidate& candidate);

// "2 cpu devices", "1 device".
std::string DevicesInWords(const PlacementRequest& request, int count);

// Chooses among `all` (free and held; the reason names who holds what is missing).
Placement Place(const PlacementRequest& request, const std::vector<Candidate>& all);

}  // namespace mindforge::sched
