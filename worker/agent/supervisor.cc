#include "worker/agent/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "worker/agent/log_lines.h"
#include "worker/agent/store_socket.h"
#include "worker/agent/trainer_exit.h"

namespace mindforge {
namespace {

std::string InWords(const v1::StartTraining& start) {
  return absl::StrCat("job ", start.job_id(), " generation ", start.generation(), " rank ",
                      start.rank());
}

}  // namespace

Supervisor::Supervisor(const AgentOptions& options, const std::vector<v1::Device>& devices,
                       Identity& identity, AgentMetrics& metrics,
                       std::function<void(Urgency)> on_change)
    : options_(options),
      identity_(identity),
      metrics_(metrics),
      on_change_(std::move(on_change)),
      slots_(devices.size()),
      spool_(&identity.spool_file()),
      jobs_before_(identity.jobs_before()),
      trainers_(devices.size()) {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < devices.size(); ++i) slots_[i].device = devices[i];
  metrics_.SetDevices(static_cast<int>(devices.size()));
}

Supervisor::~Supervisor() { trainers_.clear(); }

std::map<std::string, std::string> Supervisor::JobsBefore() const {
  MutexLock lock(mutex_);
  return jobs_before_;
}

std::map<std::string, std::string> Supervisor::JobFolders() const {
  MutexLock lock(mutex_);
  std::map<std::string, std::string> folders;
  for (const Slot& slot : slots_) {
    if (slot.busy()) folders[slot.start.job_id()] = slot.start.checkpoint_dir();
  }
  return folders;
}

bool Supervisor::IsNewCheckpoint(const std::string& job_id, int64_t step) const {
  MutexLock lock(mutex_);
  const auto newest = newest_known_.find(job_id);
  return newest != newest_known_.end() && step > newest->second;
}

void Supervisor::Found(const std::string& job_id, const v1::CheckpointWritten& checkpoint) {
  {
    MutexLock lock(mutex_);
    MF_LOG(INFO) << "job " << job_id << ": found the checkpoint " << checkpoint.path()
                 << ", which nobody here has reported";
    AddCheckpoint(job_id, checkpoint);
    UpdateSpoolMetrics();
  }
  on_change_(Urgency::kAtOnce);
}

void Supervisor::NothingFound(const std::string& job_id) {
  MutexLock lock(mutex_);
  jobs_before_.erase(job_id);
}

void Supervisor::Apply(const google::protobuf::RepeatedPtrField<v1::DesiredDevice>& desired,
                       bool draining) {
  std::vector<CurrentDevice> current;
  {
    MutexLock lock(mutex_);
    for (const Slot& slot : slots_) {
      current.push_back({.device_id = slot.device.id(),
                         .job_id = slot.start.job_id(),
                         .generation = slot.start.generation(),
                         .rank = slot.start.rank(),
                         .exited = slot.exit.has_value(),
                         .killed = slot.killed,
                         .joined = slot.joined,
                         .stop_sequence = slot.stop_sequence});
    }
  }
  for (const Action& action : Reconcile(current, desired, draining)) Take(action);
}

void Supervisor::Take(const Action& action) {
  MF_LOG(INFO) << action.reason;
  const size_t index = IndexOf(action.device_id);
  v1::TrainerOrder order;
  switch (action.kind) {
    case ActionKind::kStart:
      return Start(index, action.desired);
    case ActionKind::kForget:
      return Forget(index);
    case ActionKind::kKill: {
      MutexLock lock(mutex_);
      slots_[index].killed = true;
      if (trainers_[index] != nullptr) trainers_[index]->Kill();
      return;
    }
    case ActionKind::kJoin: {
      {
        MutexLock lock(mutex_);
        slots_[index].joined = true;
      }
      order.mutable_join()->set_rendezvous(action.desired.rendezvous());
      return Send(index, order);
    }
    case ActionKind::kStop: {
      {
        MutexLock lock(mutex_);
        slots_[index].stop_sequence = action.desired.stop().sequence();
      }
      *order.mutable_stop() = action.desired.stop();
      return Send(index, order);
    }
  }
}

void Supervisor::Start(size_t index, const v1::DesiredDevice& desired) {
  v1::StartTraining start = desired.start();
  start.set_job_id(desired.job_id());
  if (start.advertise_host().empty()) start.set_advertise_host(options_.advertise);
  absl::StatusOr<ListeningSocket> store = ListeningSocket{};
  if (start.rank() == 0) store = BindStoreSocket(options_.advertise);
  start.set_has_store_socket(store.ok() && store->fd.valid());
  {
    MutexLock lock(mutex_);
    Slot fresh;
    fresh.device = slots_[index].device;
    // The device as it is, but the numerics that the job is pinned to, which its trainer checks.
    const std::string pinned = start.device().signature();
    *start.mutable_device() = fresh.device;
    start.mutable_device()->set_signature(pinned);
    fresh.start = start;
    if (start.has_store_socket()) {
      fresh.rendezvous = HostPort{options_.advertise, store->port}.ToString();
    }
    slots_[index] = std::move(fresh);
    int64_t& newest = newest_known_[start.job_id()] = -1;
    for (const v1::ResumePoint& point : start.resume_points()) {
      newest = std::max(newest, point.step());
    }
  }
  RememberJobs();
  const auto start_process = [&]() -> absl::StatusOr<std::unique_ptr<TrainerProcess>> {
    RETURN_IF_ERROR(store);
    return TrainerProcess::Start(
        options_.trainer, start, store->fd.get(),
        {.on_report = [this, index](const v1::TrainerReport& report) { OnReport(index, report); },
         .on_line = [this, index](std::string_view line) { OnLine(index, line); },
         .on_exit = [this, index](
                        const ExitStatus& exit,
                        const std::string& why_killed) { OnExit(index, exit, why_killed); }},
        options_.trainer_exit_timeout);
  };
  absl::StatusOr<std::unique_ptr<TrainerProcess>> trainer = start_process();
  MutexLock lock(mutex_);
  Slot& slot = slots_[index];
  if (trainer.ok()) {
    trainers_[index] = *std::move(trainer);
    AddAgentLog(slot, v1::LOG_LEVEL_INFO,
                absl::StrCat("rank ", start.rank(), " of ", start.world_size(), " started on ",
                             slot.device.id(), ", process ", trainers_[index]->pid()));
    return;
  }
  slot.exit = ExitOfUnstarted(trainer.status());
  AddAgentLog(slot, v1::LOG_LEVEL_ERROR, slot.exit->cause());
}

void Supervisor::Forget(size_t index) {
  trainers_[index].reset();
  {
    MutexLock lock(mutex_);
    const std::string job_id = slots_[index].start.job_id();
    Slot empty;
    empty.device = slots_[index].device;
    slots_[index] = std::move(empty);
    bool elsewhere = false;
    for (const Slot& slot : slots_) elsewhere |= slot.start.job_id() == job_id;
    if (!elsewhere) {
      metrics_.RemoveJob(job_id);
      newest_known_.erase(job_id);
    }
  }
  RememberJobs();
}

void Supervisor::Send(size_t index, const v1::TrainerOrder& order) {
  if (trainers_[index] == nullptr) return;
  const absl::Status status = trainers_[index]->Send(order);
  // A trainer that is gone needs no order, and its exit is on the way.
  if (absl::IsDeadlineExceeded(status)) {
    MutexLock lock(mutex_);
    MF_LOG(WARNING) << InWords(slots_[index].start) << ": cannot be told: " << status;
  }
}

void Supervisor::RememberJobs() {
  std::map<std::string, std::string> jobs;
  {
    MutexLock lock(mutex_);
    jobs = jobs_before_;
    for (const Slot& slot : slots_) {
      if (slot.busy()) jobs[slot.start.job_id()] = slot.start.checkpoint_dir();
    }
  }
  if (const absl::Status status = identity_.SetJobs(jobs); !status.ok()) {
    MF_LOG(WARNING) << "cannot remember which jobs run here (their checkpoints would not be looked "
                       "for after a crash): "
                    << status;
  }
}

size_t Supervisor::IndexOf(const std::string& device_id) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].device.id() == device_id) return i;
  }
  MF_CHECK(false) << "an action for " << device_id << ", which Reconcile was not given";
  return 0;
}

bool Supervisor::Fill(v1::SynchronizeRequest* request) const {
  MutexLock lock(mutex_);
  for (const Slot& slot : slots_) {
    *request->add_devices() = slot.device;
    if (!slot.busy()) continue;
    v1::DeviceStatus* const status = request->add_device_status();
    status->set_device_id(slot.device.id());
    status->set_job_id(slot.start.job_id());
    status->set_generation(slot.start.generation());
    status->set_rank(slot.start.rank());
    *status->mutable_status() = slot.status;
    status->set_rendezvous(slot.rendezvous);
    if (slot.exit) *status->mutable_exit() = *slot.exit;
    status->set_stop_sequence(slot.stop_sequence);
    status->set_checkpoint_failures(slot.checkpoint_failures);
    status->set_checkpoint_error(slot.checkpoint_error);
  }
  return spool_.Fill(request);
}

void Supervisor::Acknowledge(const v1::SynchronizeResponse& response) {
  bool forgot = false;
  {
    MutexLock lock(mutex_);
    for (const v1::SpooledCheckpoint& known : spool_.Acknowledge(response)) {
      forgot |= jobs_before_.erase(known.job_id()) > 0;
    }
    UpdateSpoolMetrics();
  }
  if (forgot) RememberJobs();
}

bool Supervisor::AnyRunning() const {
  MutexLock lock(mutex_);
  for (const Slot& slot : slots_) {
    if (slot.running()) return true;
  }
  return false;
}

bool Supervisor::SpoolEmpty() const {
  MutexLock lock(mutex_);
  return spool_.empty();
}

size_t Supervisor::CheckpointsWaiting() const {
  MutexLock lock(mutex_);
  return spool_.checkpoints_waiting();
}

void Supervisor::StopAll() {
  std::vector<std::pair<size_t, v1::TrainerOrder>> orders;
  {
    MutexLock lock(mutex_);
    for (size_t i = 0; i < slots_.size(); ++i) {
      Slot& slot = slots_[i];
      if (!slot.running() || slot.stop_sequence > 0 || slot.killed) continue;
      if (slot.status.phase() < v1::TRAINER_PHASE_TRAINING) {
        slot.killed = true;
        if (trainers_[i] != nullptr) trainers_[i]->Kill();
        continue;
      }
      v1::TrainerOrder order;
      order.mutable_stop()->set_mode(v1::STOP_MODE_CHECKPOINT);
      order.mutable_stop()->set_sequence(++slot.stop_sequence);
      orders.emplace_back(i, order);
    }
  }
  for (const auto& [index, order] : orders) Send(index, order);
}

void Supervisor::KillAll() {
  for (auto& trainer : trainers_) trainer.reset();
}

}  // namespace mindforge
