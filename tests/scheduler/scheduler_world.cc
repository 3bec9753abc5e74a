#include "tests/scheduler/scheduler_world.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "coordinator/scheduler/desired.h"
#include "coordinator/scheduler/placement.h"
#include "coordinator/scheduler/step.h"

namespace mindforge::sched {
SchedulerWorld::SchedulerWorld(Settings s) : settings(s) {
  settings.gather_window = absl::ZeroDuration();
  state = LoadState({}, settings, now);
}

Outcome SchedulerWorld::Do(const Event& event) {
  Outcome outcome = Step(state, now, event);
  MF_CHECK_OK(store.Apply({&outcome.changes}));
  return outcome;
}

Outcome SchedulerWorld::Advance(absl::Duration by) {
  now.wall += by;
  now.mono += by;
  return Do(Tick{});
}

void SchedulerWorld::AdvanceWith(absl::Duration by, const std::vector<std::string>& callers) {
  for (absl::Duration passed; passed < by; passed += absl::Seconds(1)) {
    Advance(absl::Seconds(1));
    for (const std::string& worker : callers) Call(worker);
  }
}

Outcome SchedulerWorld::SubmitWish(const JobWish& wish) {
  return Do(SubmitJob{JobId(wish.name + "-id"),
                      wish,
                      "spec of " + wish.name,
                      {absl::StrCat("request-", next_request++), "digest"}});
}

JobId SchedulerWorld::Submit(const std::string& name, int min, int max, int64_t microbatches) {
  JobWish wish;
  wish.name = name;
  wish.min_workers = min;
  wish.max_workers = max;
  wish.accumulation_steps = microbatches;
  wish.checkpoint_dir = "/checkpoints";
  return SubmitWish(wish).job;
}

void SchedulerWorld::AddWorker(const std::string& name, int devices, const std::string& signature,
                               DeviceKind kind) {
  Agent agent;
  for (int i = 0; i < devices; ++i) {
    agent.devices.push_back({absl::StrCat(KindName(kind), ":", i), kind, "model", 0, 1, signature});
  }
  agents[name] = agent;
  Call(name);
}

Outcome SchedulerWorld::Call(const std::string& name, WorkerReport report) {
  Agent& agent = agents.at(name);
  if (report.call_number == 0) report.call_number = ++agent.calls;
  report.worker.id = WorkerId(name + "-id");
  report.worker.name = name;
  report.worker.version = agent.version;
  report.worker.advertise_host = "host-" + name;
  report.worker.incarnation = agent.incarnation;
  report.worker.spool = agent.spool;
  report.worker.devices = agent.devices;
  report.stopping = agent.stopping;
  for (const auto& [device, status] : agent.trainers) report.statuses.push_back(status);
  return Do(report);
}

void SchedulerWorld::Obey(const std::string& name, Phase phase) {
  Call(name);
  Agent& agent = agents.at(name);
  const Worker& worker = state.workers.at(WorkerId(name + "-id"));
  for (const DesiredDevice& order : DesiredFor(state, worker, now).devices) {
    if (order.job == nullptr) {
      agent.trainers.erase(order.device->id);
      continue;
    }
    DeviceStatus& status = agent.trainers[order.device->id];
    if (status.job != order.job->id || status.generation != order.job->generation) status = {};
    status.device = order.device->id;
    status.job = order.job->id;
    status.generation = order.job->generation;
    status.rank = order.rank;
    status.phase = phase;
    if (order.rank == 0) status.rendezvous = "host-" + name + ":1234";
  }
  Call(name);
}

Outcome SchedulerWorld::EndTrainer(const std::string& worker, const TrainerExit& exit, Phase phase,
                                   const std::string& device) {
  DeviceStatus& status = agent(worker).trainers.at(device);
  status.phase = phase;
  status.exit = exit;
  return Call(worker);
}

Outcome SchedulerWorld::Progressed(const std::string& worker, const JobId& id, int64_t step) {
  Progress record;
  record.step = step;
  record.total_steps = 100;
  record.generation = job(id).generation;
  record.loss = 1.0 / static_cast<double>(step);
  record.step_seconds = 1;
  WorkerReport report;
  report.progress.push_back({++agent(worker).spooled, id, record});
  return Call(worker, report);
}

Outcome SchedulerWorld::Checkpointed(const std::string& worker, const JobId& id, int64_t step,
                                     bool final, int64_t generation) {
  if (generation == 0) generation = job(id).generation.value();
  CheckpointWritten written;
  written.step = step;
  written.generation = Generation(generation);
  written.path = absl::StrCat("/checkpoints/", id.value(), "/step-", step, ".g", generation);
  written.manifest_digest = absl::StrCat("digest", step);
  written.final = final;
  WorkerReport report;
  report.checkpoints.push_back({++agent(worker).spooled, id, written});
  return Call(worker, report);
}

void SchedulerWorld::RunAll() {
  for (int round = 0; round < 2; ++round) {
    for (const auto& [name, agent] : agents) Obey(name);
  }
}

void SchedulerWorld::RestartCoordinator() {
  absl::StatusOr<Snapshot> rows = store.Load();
  MF_CHECK_OK(rows.status());
  state = LoadState(*std::move(rows), settings, now);
}

std::vector<std::string> SchedulerWorld::Trace(const JobId& id) const {
  std::vector<std::string> trace;
  for (const JobEvent& event : job(id).events) {
    const std::string name = StateName(event.state);
    if (trace.empty() || trace.back() != name) trace.push_back(name);
  }
  return trace;
}

TrainerExit Killed() { return {false, "was killed by signal 9 (Killed)", {}, "", {}}; }
TrainerExit Failed(FailureKind kind, const std::string& message) {
  return {false, "exited with code 1", kind, message, {}};
}
TrainerExit Clean() { return {true, "exited with code 0", {}, "", {}}; }

}  // namespace mindforge::sched
