#include "coordinator/rpc/convert.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/scheduler/deployments.h"

namespace mindforge {
namespace {

// The scheduler's enums are numbered as the protos'.
static_assert(static_cast<int>(sched::JobState::kQueued) == v1::JOB_STATE_QUEUED);
static_assert(static_cast<int>(sched::JobState::kFailed) == v1::JOB_STATE_FAILED);
static_assert(static_cast<int>(sched::DeviceKind::kCuda) == v1::DEVICE_KIND_CUDA);
static_assert(static_cast<int>(sched::CheckpointState::kDeleting) == v1::CHECKPOINT_STATE_DELETING);
static_assert(static_cast<int>(sched::Verification::kCorrupt) == v1::VERIFICATION_STATE_CORRUPT);
static_assert(static_cast<int>(sched::Verification::kUnreadable) ==
              v1::VERIFICATION_STATE_UNREADABLE);
static_assert(static_cast<int>(sched::WorkerState::kLost) == v1::WORKER_STATE_LOST);
static_assert(static_cast<int>(sched::DeploymentState::kDegraded) == v1::DEPLOYMENT_STATE_DEGRADED);

void FillDevice(const sched::Device& device, v1::Device* out) {
  out->set_id(device.id);
  out->set_kind(static_cast<v1::DeviceKind>(device.kind));
  out->set_model(device.model);
  out->set_memory_bytes(device.memory_bytes);
  out->set_threads(device.threads);
  out->set_signature(device.signature);
  for (const TrainingNumerics& numerics : device.numerics) {
    v1::DeviceNumerics* to = out->add_numerics();
    to->set_dtype(numerics.dtype);
    to->set_name(numerics.name);
    for (const std::string& former : numerics.former_names) to->add_former_names(former);
  }
}

void FillProgress(const sched::Job& job, v1::JobProgress* out) {
  const sched::Progress& progress = job.progress;
  out->set_step(progress.step);
  out->set_total_steps(progress.total_steps);
  out->set_epoch(progress.epoch);
  out->set_loss(progress.loss);
  out->set_learning_rate(progress.learning_rate);
  out->set_gradient_norm(progress.gradient_norm);
  out->set_tokens_per_second(
      job.state == sched::JobState::kRunning || job.final() ? progress.tokens_per_second : 0);
  out->set_tokens(job.tokens);
  out->set_world_size(progress.world_size);
  out->set_first_loss(job.first_loss);
  if (progress.validation_loss) out->set_validation_loss(*progress.validation_loss);
  if (progress.loss_scale) out->set_loss_scale(*progress.loss_scale);
  out->set_skipped_steps(progress.skipped_steps);
  if (progress.total_steps > progress.step && job.max_step > 0 && !job.final()) {
    const double step_seconds = job.productive_seconds / static_cast<double>(job.max_step);
    SetDuration(
        absl::Seconds(step_seconds * static_cast<double>(progress.total_steps - progress.step)),
        out->mutable_time_left());
  }
}

// True while nobody is to have the device.
bool IsSetAside(const sched::DeviceFaults& faults) {
  return sched::IsSetAside(faults, JobId(), absl::ZeroDuration());
}

std::string WorkerReason(const sched::Worker& worker) {
  if (worker.lost) return "no word from it: its lease ran out";
  if (worker.stopping) return "its agent is being stopped";
  if (worker.drained) return "drained as asked";
  if (!worker.reported) return "has not reported since the coordinator started";
  std::string reason;  // one device's, since a worker may have hundreds
  int more = 0;
  for (const auto& [device, faults] : worker.faults) {
    if (!IsSetAside(faults)) continue;
    if (reason.empty()) {
      reason = absl::StrCat("device ", device, " ", sched::SetAsideInWords(faults, JobId()));
    } else {
      ++more;
    }
  }
  return more == 0 ? reason : absl::StrCat(reason, "; and ", more, " more");
}

// What a filled-in specification asks for that trainers did not know before agents named numerics:
// protobuf would let them train without it.
std::string NewerFields(const v1::JobSpec& spec) {
  const v1::DataSpec& data = spec.data();
  const v1::ModelSpec& model = spec.model();
  std::vector<std::string> fields;
  const auto add = [&](bool in_use, const char* field) {
    if (in_use) fields.emplace_back(field);
  };
  add(model.use_moe() && model.has_num_experts(), "model.num_experts");
  add(data.has_format() && data.format() != "text", "data.format");
  add(data.add_bos_eos(), "data.add_bos_eos");
  add(spec.training().has_schedule() && spec.training().schedule() != "cosine",
      "training.schedule");
  return absl::StrJoin(fields, ", ");
}

}  // namespace

void SetTimestamp(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  out->set_seconds(seconds);
  out->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

void SetDuration(absl::Duration duration, google::protobuf::Duration* out) {
  const int64_t seconds = absl::ToInt64Seconds(duration);
  out->set_seconds(seconds);
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration - absl::Seconds(seconds))));
}

void FillFromSpec(const std::string& spec, sched::JobWish& wish) {
  v1::JobSpec parsed;
  parsed.ParseFromString(spec);
  wish.dtype = parsed.training().dtype();
  wish.newer_fields = NewerFields(parsed);
}

sched::JobWish WishOf(const v1::JobSpec& spec) {
  sched::JobWish wish;
  wish.name = spec.name();
  wish.dtype = spec.training().dtype();
  wish.newer_fields = NewerFields(spec);
  wish.min_workers = spec.workers().min();
  wish.max_workers = spec.workers().max();
  wish.accumulation_steps = spec.training().accumulation_steps();
  if (spec.workers().device() == "cpu") wish.device = sched::DeviceKind::kCpu;
  if (spec.workers().device() == "cuda") wish.device = sched::DeviceKind::kCuda;
  wish.priority = spec.priority();
  wish.checkpoint_dir = spec.checkpoint().dir();
  wish.keep_last = spec.checkpoint().keep_last();
  wish.keep_every = spec.checkpoint().keep_every();
  wish.max_failures = spec.max_failures();
  return wish;
}

void FillNumericsChange(const sched::NumericsChange& change, v1::NumericsChange* out) {
  out->set_generation(change.generation.value());
  out->set_from_step(change.from_step.value());
  out->set_name(change.name);
}

void FillJob(const sched::State& state, const sched::Job& job, v1::Job* out) {
  out->set_id(job.id.value());
  out->mutable_spec()->ParseFromString(job.spec);
  out->mutable_spec()->mutable_workers()->set_min(job.wish.min_workers);
  out->mutable_spec()->mutable_workers()->set_max(job.wish.max_workers);
  out->set_state(static_cast<v1::JobState>(job.state));
  out->set_reason(job.reason);
  out->set_generation(job.generation.value());
  for (size_t rank = 0; rank < job.members.size(); ++rank) {
    v1::JobMember* member = out->add_members();
    member->set_rank(static_cast<int32_t>(rank));
    const auto worker = state.workers.find(job.members[rank].worker);
    member->set_worker(worker == state.workers.end() ? job.members[rank].worker.value()
                                                     : worker->second.name);
    member->set_device(job.members[rank].device);
  }
  FillProgress(job, out->mutable_progress());
  out->set_failures(job.failures);
  SetTimestamp(job.submitted_at, out->mutable_submitted_at());
  if (job.started_at != absl::InfinitePast()) {
    SetTimestamp(job.started_at, out->mutable_started_at());
  }
  if (job.finished_at != absl::InfinitePast()) {
    SetTimestamp(job.finished_at, out->mutable_finished_at());
  }
  out->set_revision(job.revision);
  out->set_device_signature(job.device_signature);
  out->set_dataset_digest(job.dataset_digest);
  out->set_skipped_lines(job.skipped_lines);
  const sched::Checkpoint* newest = sched::NewestCheckpoint(state, job.id);
  out->set_last_checkpoint_step(newest == nullptr ? -1 : newest->step);
  out->set_pause_requested(job.pause_requested);
  out->set_checkpoint_failures(job.checkpoint_failures);
  out->set_checkpoint_error(job.checkpoint_error);
  for (const sched::NumericsChange& change : job.numerics) {
    FillNumericsChange(change, out->add_numerics_history());
  }
}

void AddEvent(const sched::JobEvent& event, v1::GetJobResponse* out) {
  v1::JobEvent* to = out->add_events();
  to->set_unix_millis(absl::ToUnixMillis(event.at));
  to->set_state(static_cast<v1::JobState>(event.state));
  to->set_generation(event.generation.value());
  to->set_reason(event.reason);
}

void FillCheckpoint(const sched::Checkpoint& checkpoint, v1::Checkpoint* out) {
  out->set_job_id(checkpoint.job.value());
  out->set_step(checkpoint.step);
  out->set_generation(checkpoint.generation.value());
  out->set_state(static_cast<v1::CheckpointState>(checkpoint.state));
  out->set_path(checkpoint.path);
  out->set_size_bytes(checkpoint.size_bytes);
  out->set_loss(checkpoint.loss);
  if (checkpoint.validation_loss) out->set_validation_loss(*checkpoint.validation_loss);
  SetTimestamp(checkpoint.committed_at, out->mutable_committed_at());
  out->set_pinned(checkpoint.pinned);
  out->set_manifest_digest(checkpoint.manifest_digest);
  out->set_verification(static_cast<v1::VerificationState>(checkpoint.verification));
  out->set_verification_detail(checkpoint.verification_detail);
  if (checkpoint.verified_at != absl::InfinitePast()) {
    SetTimestamp(checkpoint.verified_at, out->mutable_verified_at());
  }
}

void FillWorker(const sched::State& state, const sched::Worker& worker, v1::Worker* out) {
  out->set_id(worker.id.value());
  out->set_name(worker.name);
  out->set_state(static_cast<v1::WorkerState>(worker.state()));
  out->set_address(worker.advertise_host);
  out->set_version(worker.version);
  SetTimestamp(worker.last_seen, out->mutable_last_seen_at());
  out->set_reason(WorkerReason(worker));
  for (const sched::Device& device : worker.devices) {
    v1::WorkerDevice* to = out->add_devices();
    FillDevice(device, to->mutable_device());
    const auto faults = worker.faults.find(device.id);
    if (faults != worker.faults.end() && IsSetAside(faults->second)) {
      SetTimestamp(faults->second.for_all.until_wall, to->mutable_set_aside_until());
      to->set_set_aside_reason(sched::FaultsInWords(faults->second));
    }
    const auto holder = state.holders.find({worker.id, device.id});
    if (holder == state.holders.end()) continue;
    to->set_job_id(holder->second.first.value());
    to->set_generation(state.jobs.at(holder->second.first).generation.value());
    to->set_rank(holder->second.second);
  }
}

std::string LoadOptionsOf(const v1::DeploymentSpec& spec) {
  v1::DeploymentSpec options;
  options.set_lora_path(spec.lora_path());
  if (spec.has_rope_scaling()) *options.mutable_rope_scaling() = spec.rope_scaling();
  return options.SerializeAsString();
}

void FillDeployment(const sched::State& state, const sched::Deployment& deployment,
                    v1::Deployment* out) {
  v1::DeploymentSpec* spec = out->mutable_spec();
  spec->set_name(deployment.name);
  if (deployment.job.empty()) {
    spec->set_path(deployment.path);
  } else {
    const auto job = state.jobs.find(deployment.job);
    spec->mutable_job()->set_job(job == state.jobs.end() ? deployment.job.value()
                                                         : job->second.wish.name);
    if (deployment.step) spec->mutable_job()->set_step(*deployment.step);
  }
  spec->set_replicas(deployment.replicas);
  spec->set_prompt_style(static_cast<v1::PromptStyle>(deployment.prompt_style));
  FillLoadOptions(deployment.load_options, spec);
  const sched::DeploymentStatus status = sched::Describe(state, deployment);
  out->set_state(static_cast<v1::DeploymentState>(status.state));
  out->set_reason(status.reason);
  out->set_desired_weights_version(status.desired.version);
  out->set_desired_path(status.desired.path);
  for (const sched::Replica& replica : status.replicas) {
    v1::DeploymentReplica* to = out->add_replicas();
    to->set_worker(replica.node->name);
    to->set_address(replica.node->address);
    to->set_weights_version(replica.node->weights_version);
    to->set_ready(replica.node->ready);
    to->set_reason(replica.reason);
  }
  out->set_created_unix_millis(absl::ToUnixMillis(deployment.created_at));
}

}  // namespace mindforge
