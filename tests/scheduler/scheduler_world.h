// A scheduler with agents that do as they are told, under a clock turned by hand. Each agent is a
// few lines: its trainers are statuses that a test sets.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/state.h"
#include "tests/fakes/memory_store.h"

namespace mindforge::sched {

class SchedulerWorld {
 public:
  struct Agent {
    std::string incarnation = "one";
    std::string version = "1";
    std::string spool = "spool";
    std::vector<Device> devices;
    std::map<std::string, DeviceStatus> trainers;  // by device
    bool stopping = false;
    int64_t spooled = 0;  // numbers what it delivers
    int64_t calls = 0;
  };

  explicit SchedulerWorld(Settings settings = {});

  // Every step's changes are kept in `store`.
  Outcome Do(const Event& event);
  // Time passes in one piece, then the timer ticks.
  Outcome Advance(absl::Duration by);
  // The same in steps of a second, in which these agents call.
  void AdvanceWith(absl::Duration by, const std::vector<std::string>& callers);

  // Submits and returns the job's id, which is its name with "-id".
  JobId Submit(const std::string& name, int min = 1, int max = 1, int64_t microbatches = 4);
  Outcome SubmitWish(const JobWish& wish);

  // Adds an agent with so many devices of the signature and lets it call.
  void AddWorker(const std::string& name, int devices = 1, const std::string& signature = "cpu-a",
                 DeviceKind kind = DeviceKind::kCpu);
  // The agent tells how it is, with these things delivered.
  // A call_number in `extra` stands for the agent's next.
  Outcome Call(const std::string& worker, WorkerReport extra = {});
  // The agent calls, takes its orders, and its trainers get to `phase`.
  void Obey(const std::string& worker, Phase phase = Phase::kTraining);
  // The trainer of the job there ends.
  Outcome EndTrainer(const std::string& worker, const TrainerExit& exit,
                     Phase phase = Phase::kFailed, const std::string& device = "cpu:0");
  // The job's rank 0 made a step; a worker of the job tells.
  Outcome Progressed(const std::string& worker, const JobId& job, int64_t step);
  Outcome Checkpointed(const std::string& worker, const JobId& job, int64_t step,
                       bool final = false, int64_t generation = 0);
  // Places and starts the job with all agents: it is RUNNING.
  void RunAll();

  // The coordinator dies and comes back with what it had made durable.
  void RestartCoordinator();

  const Job& job(const JobId& id) const { return state.jobs.at(id); }
  Agent& agent(const std::string& worker) { return agents.at(worker); }
  // "QUEUED", "RUNNING"… of each of the job's events.
  std::vector<std::string> Trace(const JobId& id) const;

  State state;
  Now now{absl::FromUnixSeconds(1'700'000'000), absl::Seconds(1000)};
  Settings settings;
  std::map<std::string, Agent> agents;
  MemoryStore store;
  int64_t next_request = 1;
};

TrainerExit Killed();
TrainerExit Failed(FailureKind kind, const std::string& message = "it broke");
TrainerExit Clean();

}  // namespace mindforge::sched
