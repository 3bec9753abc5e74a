// An agent on a thread of this process, between a fake coordinator and fake trainers.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_coordinator.h"
#include "tests/fakes/temp_dir.h"
#include "worker/agent/agent.h"
#include "worker/agent/devices.h"

namespace mindforge {

inline v1::DesiredDevice Desired(const std::string& mode, int64_t generation = 1, int rank = 0,
                                 const std::string& device = "cpu:0") {
  v1::DesiredDevice desired;
  desired.set_device_id(device);
  desired.set_job_id("job-" + mode);
  v1::StartTraining& start = *desired.mutable_start();
  start.set_generation(generation);
  start.set_rank(rank);
  start.set_world_size(1);
  start.set_checkpoint_dir("/nowhere");
  start.mutable_spec()->set_name(mode);
  start.mutable_spec()->mutable_training()->set_max_steps(3);
  return desired;
}

inline v1::TrainerPhase PhaseOf(const FakeCoordinator::Heard& heard,
                                const std::string& device = "cpu:0") {
  const auto it = heard.devices.find(device);
  return it == heard.devices.end() ? v1::TRAINER_PHASE_UNSPECIFIED : it->second.status().phase();
}

inline bool HasExit(const FakeCoordinator::Heard& heard, const std::string& device = "cpu:0") {
  const auto it = heard.devices.find(device);
  return it != heard.devices.end() && it->second.has_exit();
}

inline bool HasLog(const FakeCoordinator::Heard& heard, const std::string& part) {
  for (const std::string& text : heard.log_texts) {
    if (absl::StrContains(text, part)) return true;
  }
  return false;
}

// The process number in "rank 0 of 1 started on cpu:0, process 123".
inline pid_t TrainerPid(const FakeCoordinator::Heard& heard) {
  for (auto text = heard.log_texts.rbegin(); text != heard.log_texts.rend(); ++text) {
    const size_t at = text->find(", process ");
    if (at != std::string::npos) return std::atoi(text->c_str() + at + 10);
  }
  return 0;
}

inline bool IsTraining(const FakeCoordinator::Heard& heard) {
  return PhaseOf(heard) == v1::TRAINER_PHASE_TRAINING && TrainerPid(heard) != 0;
}

class AgentTest : public testing::Test {
 protected:
  ~AgentTest() override { StopAgent(); }

  void StartAgent() {
    options_.coordinator = coordinator_.address();
    options_.name = "tester";
    options_.advertise = "127.0.0.1";
    if (options_.trainer.empty()) options_.trainer = FAKE_TRAINER;
    options_.client.max_reconnect_backoff = absl::Milliseconds(100);
    options_.flush_interval = absl::Milliseconds(10);
    options_.drain_grace = absl::Milliseconds(100);
    options_.farewell = farewell_;
    identity_ = *Identity::Open(dir_.File("data"));
    registry_ = std::make_unique<MetricsRegistry>("mindforge-worker");
    const auto devices = MakeDevices({.cpu_slots = 2}, Hardware{.cores = 2}, 1);
    agent_ = std::make_unique<Agent>(options_, *devices, *identity_, *registry_,
                                     *MakeChannel(options_.coordinator, options_.client));
    // Trainers die with the thread that runs the agent.
    thread_ = std::thread([this] { outcome_ = agent_->Run(); });
  }
  void StopAgent() {
    if (agent_ == nullptr) return;
    agent_->RequestDrain();
    thread_.join();
    agent_.reset();
    identity_.reset();
  }

  const TempDir dir_;
  FakeCoordinator coordinator_;
  AgentOptions options_;
  // Ends long before, unless the coordinator is away.
  absl::Duration farewell_ = absl::Seconds(30);
  std::unique_ptr<Identity> identity_;
  std::unique_ptr<MetricsRegistry> registry_;
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
  absl::Status outcome_;  // of the agent's run, once it has ended
};

}  // namespace mindforge
