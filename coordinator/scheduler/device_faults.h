// What is remembered of a device that failed, and what follows: a stateless policy over that
// memory.
//
// It lives as long as the coordinator: after a restart every device has a clean record. That a
// failure may be the job's own making is told apart in set_aside.h, which writes the memory.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/ids.h"

namespace mindforge::sched {

// An end of a trainer that may be its device's doing.
struct DeviceFault {
  JobId job;
  // The worker said that it cannot do this job as it is (its storage is not mounted there). Of one
  // job it says nothing about others.
  bool unfit = false;
  std::string text;
};

// For how long somebody is not to have a device.
struct SetAside {
  int times = 0;                                     // how often it was
  absl::Duration until = -absl::InfiniteDuration();  // set aside before that, on both clocks
  absl::Time until_wall = absl::InfinitePast();
};

// A device's faults since its last good run.
struct DeviceFaults {
  std::vector<DeviceFault> in_a_row;   // oldest first, at most kMaxFaults
  SetAside for_all;                    // for what counts against it whoever asks
  std::map<JobId, SetAside> for_jobs;  // those it is unfit for, of `in_a_row`
};

inline constexpr size_t kMaxFaults = 16;  // the oldest goes
// One fault makes a device the last choice, so many set it aside.
inline constexpr int kFaultsToSetAside = 2;
inline constexpr absl::Duration kFirstSetAside = absl::Minutes(1);
inline constexpr absl::Duration kLongestSetAside = absl::Hours(1);

// How long it is set aside after it was so `times` times before: doubles.
absl::Duration SetAsideFor(int times);

// The faults that count whoever asks for the device: its own, and a worker's that is unfit for two
// jobs.
int FaultsForAll(const DeviceFaults& faults);

bool IsUnfitFor(const DeviceFaults& faults, const JobId& job);

// The same when `job` asks, with what makes the device unfit for it.
int FaultsFor(const DeviceFaults& faults, const JobId& job);

// True when `job` is not to have it now; an empty id: nobody is. A time in the past asks whether it
// is so until the next expiry.
bool IsSetAside(const DeviceFaults& faults, const JobId& job, absl::Duration now);

// "2 failures in a row, the last: CUDA error".
std::string FaultsInWords(const DeviceFaults& faults);
// "is set aside until 14:05:01Z after 2 failures in a row, the last: CUDA error", as it is for
// `job`; an empty id: for everybody.
std::string SetAsideInWords(const DeviceFaults& faults, const JobId& job);

}  // namespace mindforge::sched
