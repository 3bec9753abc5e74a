// Synchronize's messages as the scheduler's events and back.
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/scheduler/desired.h"

namespace mindforge {
namespace {

constexpr size_t kMaxIdBytes = 128;
constexpr int kMaxDevices = 256;
constexpr int kMaxSpooled = 1000;
constexpr int kMaxPaths = 1000;
constexpr int kMaxNumerics = 16;

sched::Device ToDevice(const v1::Device& device) {
  sched::Device to{
      device.id(),
      device.kind() == v1::DEVICE_KIND_CUDA ? sched::DeviceKind::kCuda : sched::DeviceKind::kCpu,
      device.model(),
      device.memory_bytes(),
      device.threads(),
      device.signature(),
      {}};
  for (const v1::DeviceNumerics& numerics : device.numerics()) {
    to.numerics.push_back({numerics.dtype(),
                           numerics.name(),
                           {numerics.former_names().begin(), numerics.former_names().end()}});
  }
  return to;
}

sched::TrainerExit ToExit(const v1::TrainerExit& exit) {
  sched::TrainerExit to;
  to.clean = exit.clean();
  to.cause = exit.cause();
  if (exit.has_failure()) {
    const v1::TrainerFailure& failure = exit.failure();
    to.kind = v1::FailureKind_IsValid(failure.kind())
                  ? static_cast<sched::FailureKind>(failure.kind())
                  : sched::FailureKind::kInternal;
    to.message = failure.message();
    for (const v1::FieldProblem& problem : failure.problems()) {
      to.problems.push_back({problem.field(), problem.description()});
    }
  }
  return to;
}

sched::DeviceStatus ToStatus(const v1::DeviceStatus& status) {
  sched::DeviceStatus to;
  to.device = status.device_id();
  to.job = JobId(status.job_id());
  to.generation = Generation(status.generation());
  to.rank = status.rank();
  const v1::TrainerStatus& trainer = status.status();
  to.phase = v1::TrainerPhase_IsValid(trainer.phase()) ? static_cast<sched::Phase>(trainer.phase())
                                                       : sched::Phase::kUnknown;
  to.step = trainer.step();
  to.dataset_digest = trainer.dataset_digest();
  to.total_steps = trainer.total_steps();
  to.detail = trainer.detail();
  to.skipped_lines = trainer.skipped_lines();
  to.rendezvous = status.rendezvous();
  if (status.has_exit()) to.exit = ToExit(status.exit());
  to.stop_sequence = status.stop_sequence();
  to.activity = trainer.activity();
  to.checkpoint_failures = status.checkpoint_failures();
  to.checkpoint_error = status.checkpoint_error();
  return to;
}

// The store has no place for a number that is not finite; the record's bytes keep what was sent.
double Finite(double value) { return std::isfinite(value) ? value : 0; }

sched::Progress ToProgress(const v1::ProgressRecord& record) {
  sched::Progress to;
  to.step = record.step();
  to.total_steps = record.total_steps();
  to.epoch = Finite(record.epoch());
  to.generation = Generation(record.generation());
  to.world_size = record.world_size();
  to.loss = Finite(record.loss());
  to.learning_rate = Finite(record.learning_rate());
  to.gradient_norm = Finite(record.gradient_norm());
  to.tokens = record.tokens();
  to.tokens_per_second = Finite(record.tokens_per_second());
  to.step_seconds = Finite(record.step_seconds());
  if (record.has_validation_loss()) to.validation_loss = Finite(record.validation_loss());
  if (record.has_loss_scale()) to.loss_scale = Finite(record.loss_scale());
  to.skipped_steps = record.skipped_steps();
  to.skipped = record.skipped();
  to.bytes = record.SerializeAsString();
  return to;
}

bool HasFewNumerics(const v1::Device& device) {
  const auto is_long = [](const std::string& text) { return text.size() > kMaxNumericsBytes; };
  if (device.numerics_size() > kMaxNumerics) return false;
  for (const v1::DeviceNumerics& numerics : device.numerics()) {
    if (is_long(numerics.dtype()) || is_long(numerics.name())) return false;
    if (numerics.former_names_size() > kMaxNumerics) return false;
    for (const std::string& former : numerics.former_names()) {
      if (is_long(former)) return false;
    }
  }
  return true;
}

absl::Status Check(const v1::SynchronizeRequest& request) {
  std::vector<FieldViolation> problems;
  const auto check_id = [&](const std::string& value, const char* field) {
    if (value.empty() || value.size() > kMaxIdBytes) {
      problems.push_back(
          {field, absl::StrCat("has ", value.size(), " bytes, must have 1 to ", kMaxIdBytes)});
    }
  };
  const auto check_count = [&](int count, int most, const char* field) {
    if (count > most) {
      problems.push_back({field, absl::StrCat("has ", count, " entries, at most ", most,
                                              " a call: send the rest with the next")});
    }
  };
  check_id(request.worker_id(), "worker_id");
  check_id(request.incarnation(), "incarnation");
  if (request.call_number() < 1) {
    problems.push_back({"call_number", absl::StrCat("is ", request.call_number(),
                                                    ", must grow from 1 with each call")});
  }
  if (request.name().size() > kMaxIdBytes) check_id(request.name(), "name");
  if (request.spool().size() > kMaxIdBytes) check_id(request.spool(), "spool");
  check_count(request.devices_size(), kMaxDevices, "devices");
  check_count(request.device_status_size(), kMaxDevices, "device_status");
  check_count(request.progress_size(), kMaxSpooled, "progress");
  check_count(request.logs_size(), kMaxSpooled, "logs");
  check_count(request.checkpoints_size(), kMaxSpooled, "checkpoints");
  check_count(request.corruptions_size(), kMaxSpooled, "corruptions");
  check_count(request.verify_results_size(), kMaxPaths, "verify_results");
  check_count(request.deleted_paths_size(), kMaxPaths, "deleted_paths");
  std::set<std::string> seen;
  for (int i = 0; i < request.devices_size(); ++i) {
    const std::string& id = request.devices(i).id();
    if (id.empty() || !seen.insert(id).second) {
      problems.push_back({absl::StrCat("devices[", i, "].id"),
                          absl::StrCat("is '", id, "', must be set and differ from the others")});
    }
    if (!HasFewNumerics(request.devices(i))) {
      problems.push_back({absl::StrCat("devices[", i, "].numerics"),
                          absl::StrCat("has more than ", kMaxNumerics, " entries or names, or one",
                                       " of more than ", kMaxNumericsBytes, " bytes")});
    }
  }
  return problems.empty() ? absl::OkStatus() : InvalidArgument(problems);
}

void TakeSpools(const v1::SynchronizeRequest& request, sched::WorkerReport& report) {
  for (const v1::SpooledProgress& item : request.progress()) {
    report.progress.push_back({item.number(), JobId(item.job_id()), ToProgress(item.record())});
  }
  for (const v1::SpooledLog& item : request.logs()) {
    report.logs.push_back({item.number(),
                           JobId(item.job_id()),
                           {item.line().rank(), item.line().SerializeAsString()}});
  }
  for (const v1::SpooledCheckpoint& item : request.checkpoints()) {
    const v1::CheckpointWritten& written = item.checkpoint();
    report.checkpoints.push_back({item.number(),
                                  JobId(item.job_id()),
                                  {.step = written.step(),
                                   .generation = Generation(written.generation()),
                                   .path = written.path(),
                                   .size_bytes = written.size_bytes(),
                                   .loss = Finite(written.loss()),
                                   .manifest_digest = written.manifest_digest(),
                                   .final = written.final()}});
    if (written.has_validation_loss()) {
      report.checkpoints.back().item.validation_loss = Finite(written.validation_loss());
    }
  }
  for (const v1::SpooledCorruption& item : request.corruptions()) {
    const v1::CheckpointCorrupt& corruption = item.corruption();
    report.corruptions.push_back(
        {item.number(),
         JobId(item.job_id()),
         {corruption.step(), Generation(corruption.generation()), corruption.detail()}});
  }
}

void FillStart(const sched::State& state, const sched::Worker& worker,
               const sched::DesiredDevice& order, v1::StartTraining* out) {
  const sched::Job& job = *order.job;
  out->set_job_id(job.id.value());
  out->mutable_spec()->ParseFromString(job.spec);
  out->mutable_spec()->mutable_workers()->set_min(job.wish.min_workers);
  out->mutable_spec()->mutable_workers()->set_max(job.wish.max_workers);
  out->set_generation(job.generation.value());
  out->set_rank(order.rank);
  out->set_world_size(static_cast<int32_t>(job.members.size()));
  v1::Device* device = out->mutable_device();
  device->set_id(order.device->id);
  device->set_kind(static_cast<v1::DeviceKind>(order.device->kind));
  device->set_model(order.device->model);
  device->set_memory_bytes(order.device->memory_bytes);
  device->set_threads(order.device->threads);
  device->set_signature(job.device_signature);
  out->set_checkpoint_dir(sched::CheckpointFolder(job));
  for (const sched::Checkpoint* point : sched::ResumePoints(state, job.id)) {
    v1::ResumePoint* to = out->add_resume_points();
    to->set_step(point->step);
    to->set_generation(point->generation.value());
    to->set_path(point->path);
  }
  out->set_advertise_host(worker.advertise_host);
  out->set_dataset_digest(job.dataset_digest);
  out->set_has_store_socket(order.rank == 0);
  for (const sched::WorldSizeChange& change : job.world_sizes) {
    v1::WorldSizeChange* to = out->add_world_size_history();
    to->set_generation(change.generation.value());
    to->set_from_step(change.from_step.value());
    to->set_world_size(change.world_size);
  }
  for (const sched::NumericsChange& change : job.numerics) {
    FillNumericsChange(change, out->add_numerics_history());
  }
}

}  // namespace

absl::StatusOr<sched::WorkerReport> ToReport(const v1::SynchronizeRequest& request) {
  if (absl::Status status = Check(request); !status.ok()) return status;
  sched::WorkerReport report;
  sched::WorkerRecord& worker = report.worker;
  worker.id = WorkerId(request.worker_id());
  worker.name = request.name().empty() ? request.worker_id() : request.name();
  worker.version = request.version();
  worker.advertise_host = request.advertise_host();
  worker.incarnation = request.incarnation();
  worker.spool = request.spool().empty() ? request.incarnation() : request.spool();
  for (const v1::Device& device : request.devices()) worker.devices.push_back(ToDevice(device));
  report.call_number = request.call_number();
  report.stopping = request.draining();
  for (const v1::DeviceStatus& status : request.device_status()) {
    if (!status.job_id().empty()) report.statuses.push_back(ToStatus(status));
  }
  TakeSpools(request, report);
  for (const v1::VerifyResult& result : request.verify_results()) {
    report.verify_results.push_back({.path = result.path(),
                                     .valid = result.valid(),
                                     .detail = result.detail(),
                                     .unreadable = result.unreadable() && !result.valid()});
  }
  report.deleted_paths.assign(request.deleted_paths().begin(), request.deleted_paths().end());
  return report;
}

void FillDesired(const sched::State& state, const sched::Worker& worker, const sched::Now& now,
                 v1::SynchronizeResponse* out) {
  const sched::DesiredWorker desired = sched::DesiredFor(state, worker, now);
  for (const sched::DesiredDevice& order : desired.devices) {
    v1::DesiredDevice* to = out->add_devices();
    to->set_device_id(order.device->id);
    if (order.job == nullptr) continue;
    to->set_job_id(order.job->id.value());
    FillStart(state, worker, order, to->mutable_start());
    to->set_rendezvous(order.job->rendezvous);
    if (order.stop) {
      to->mutable_stop()->set_mode(v1::STOP_MODE_CHECKPOINT);
      to->mutable_stop()->set_sequence(order.job->stop_sequence);
    }
  }
  out->set_progress_acknowledged(worker.acks.progress);
  out->set_logs_acknowledged(worker.acks.logs);
  out->set_checkpoints_acknowledged(worker.acks.checkpoints);
  out->set_corruptions_acknowledged(worker.acks.corruptions);
  for (const std::string& path : desired.verify_paths) out->add_verify_paths(path);
  for (const std::string& path : desired.delete_paths) out->add_delete_paths(path);
  SetDuration(absl::ZeroDuration(), out->mutable_call_again());
  out->set_desired_version(worker.desired_version);
  SetDuration(state.settings.worker_lease, out->mutable_lease());
}

}  // namespace mindforge
