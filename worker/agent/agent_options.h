// What an agent is told at its start, from WorkerConfig and flags, checked and complete.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/grpc_client.h"
#include "mindforge/v1/config.pb.h"

namespace mindforge {

struct AgentOptions {
  std::string coordinator;  // HOST:PORT
  std::string name;
  std::string devices = "auto";
  int threads_per_device = 0;  // 0: the machine's cores over the CPU slots
  std::string advertise;
  std::string data_dir;
  std::string metrics;
  GrpcClientOptions client;
  std::string trainer;  // path of the program

  // Steps and log lines wait at most so long for company before they are sent.
  absl::Duration flush_interval = absl::Milliseconds(200);
  // SIGTERM: how long the coordinator has to order the stop, then the agent orders it itself …
  absl::Duration drain_grace = absl::Seconds(2);
  // … and how long trainers have for their checkpoint before they are killed.
  absl::Duration drain_timeout = absl::Seconds(150);
  // A trainer that has closed its reports has so long to exit before it is killed.
  absl::Duration trainer_exit_timeout = absl::Seconds(30);
  // What is left to tell once they are gone waits so long for a coordinator that is away.
  absl::Duration farewell = absl::Seconds(2);
};

// Where the configuration leaves something open. `program_path` is argv[0] resolved: the trainer
// lies beside it, unless MINDFORGE_TRAINER names another.
// INVALID_ARGUMENT lists every field that cannot be.
absl::StatusOr<AgentOptions> MakeAgentOptions(const v1::WorkerConfig& config,
                                              const std::string& program_path);

}  // namespace mindforge
