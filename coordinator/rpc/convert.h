// The scheduler's records as the protos that callers see, and agents' reports as its events.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/check.h"
#include "coordinator/scheduler/event.h"
#include "coordinator/scheduler/state.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "mindforge/v1/checkpoint_service.pb.h"
#include "mindforge/v1/deployment_service.pb.h"
#include "mindforge/v1/job_service.pb.h"
#include "mindforge/v1/worker_agent_service.pb.h"
#include "mindforge/v1/worker_service.pb.h"

namespace mindforge {

void SetTimestamp(absl::Time time, google::protobuf::Timestamp* out);
void SetDuration(absl::Duration duration, google::protobuf::Duration* out);

// Sets what the store does not keep of a wish, from the serialized JobSpec.
void FillFromSpec(const std::string& spec, sched::JobWish& wish);

// What the scheduler decides a validated job by.
sched::JobWish WishOf(const v1::JobSpec& spec);

// Of a name of numerics.
inline constexpr size_t kMaxNumericsBytes = 512;

void FillNumericsChange(const sched::NumericsChange& change, v1::NumericsChange* out);

void FillJob(const sched::State& state, const sched::Job& job, v1::Job* out);
void AddEvent(const sched::JobEvent& event, v1::GetJobResponse* out);
void FillCheckpoint(const sched::Checkpoint& checkpoint, v1::Checkpoint* out);
void FillWorker(const sched::State& state, const sched::Worker& worker, v1::Worker* out);
// What a deployment's weights are loaded with, opaque to the scheduler; empty: nothing.
std::string LoadOptionsOf(const v1::DeploymentSpec& spec);
// Sets the fields of those options in `out`, a DeploymentSpec or a DesiredModel.
template <typename Message>
void FillLoadOptions(const std::string& options, Message* out) {
  v1::DeploymentSpec spec;
  // Written by LoadOptionsOf.
  MF_CHECK(spec.ParseFromString(options)) << "a deployment's load options cannot be read";
  out->set_lora_path(spec.lora_path());
  if (spec.has_rope_scaling()) *out->mutable_rope_scaling() = spec.rope_scaling();
}

void FillDeployment(const sched::State& state, const sched::Deployment& deployment,
                    v1::Deployment* out);

// INVALID_ARGUMENT names every field that cannot be.
absl::StatusOr<sched::WorkerReport> ToReport(const v1::SynchronizeRequest& request);

// What the worker should do now. REQUIRES: it is registered.
void FillDesired(const sched::State& state, const sched::Worker& worker, const sched::Now& now,
                 v1::SynchronizeResponse* out);

}  // namespace mindforge
