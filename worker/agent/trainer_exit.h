// How a trainer ended, in words for people and as the coordinator decides by it.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/subprocess.h"
#include "mindforge/v1/trainer.pb.h"
#include "mindforge/v1/worker_agent_service.pb.h"

namespace mindforge {

// What is known of an ended trainer.
struct EndedTrainer {
  ExitStatus exit;
  v1::TrainerPhase phase = v1::TRAINER_PHASE_UNSPECIFIED;
  std::optional<v1::TrainerFailure> failure;  // when it said one
  std::string last_line;                      // of its stderr
  bool killed_by_agent = false;               // it was not wanted any more
  std::string why_killed;                     // by the agent, for what it did; empty: it was not
};

// Clean only when it exited 0 after FINISHED or STOPPED.
v1::TrainerExit DescribeExit(const EndedTrainer& ended);

// The exit of a trainer that could not be started.
v1::TrainerExit ExitOfUnstarted(const absl::Status& status);

}  // namespace mindforge
