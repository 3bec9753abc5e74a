#include "tests/cli/fake_coordinator.h"

#include <algorithm>
#include <functional>

#include "common/check.h"
#include "common/grpc_status.h"

namespace mindforge::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(20);  // how soon a cancelled call is noticed
constexpr absl::Duration kPatience = absl::Seconds(10);

bool Final(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

absl::Status NoSuch(const std::string& what, const std::string& name) {
  return Error(absl::StatusCode::kNotFound, "NOT_FOUND", "there is no " + what + " '" + name + "'");
}

class FakeJobs : public v1::JobService::Service {
 public:
  explicit FakeJobs(FakeState& state) : state_(state) {}

  grpc::Status SubmitJob(grpc::ServerContext*, const v1::SubmitJobRequest* request,
                         v1::SubmitJobResponse* response) override {
    MutexLock lock(state_.mutex);
    state_.submitted.push_back(*request);
    if (state_.fail_submits > 0) {
      --state_.fail_submits;
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "starting");
    }
    if (!state_.error.ok()) return ToGrpcStatus(state_.error);
    v1::Job job;
    job.set_id("j" + request->job().name());
    *job.mutable_spec() = request->job();
    job.set_state(v1::JOB_STATE_QUEUED);
    job.set_reason("waiting for 1 device");
    job.set_last_checkpoint_step(-1);
    if (!request->validate_only()) state_.jobs.push_back(job);
    *response->mutable_job() = job;
    return grpc::Status::OK;
  }

  grpc::Status GetJob(grpc::ServerContext*, const v1::GetJobRequest* request,
                      v1::GetJobResponse* response) override {
    const grpc::Status status =
        WithJob(request->job(), [&](v1::Job& job) { *response->mutable_job() = job; });
    MutexLock lock(state_.mutex);
    for (const v1::JobEvent& event : state_.events) *response->add_events() = event;
    return status;
  }

  grpc::Status ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override {
    MutexLock lock(state_.mutex);
    state_.listed.push_back(*request);
    if (!state_.error.ok()) return ToGrpcStatus(state_.error);
    // Two a page, so that a caller has to turn pages.
    const size_t first = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    for (size_t i = first; i < state_.jobs.size() && i < first + 2; ++i) {
      *response->add_jobs() = state_.jobs[i];
    }
    if (first + 2 < state_.jobs.size()) response->set_next_page_token(std::to_string(first + 2));
    return grpc::Status::OK;
  }

  grpc::Status WatchJob(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    int64_t seen = -1;
    MutexLock lock(state_.mutex);
    ++state_.watchers;
    state_.changed.SignalAll();
    while (!context->IsCancelled()) {
      v1::Job* job = Find(request->job());
      if (job == nullptr) {
        --state_.watchers;
        return ToGrpcStatus(NoSuch("job", request->job()));
      }
      if (job->revision() > seen) {
        seen = job->revision();
        v1::WatchJobResponse response;
        *response.mutable_job() = *job;
        writer->Write(response);
        if (Final(job->state())) break;
      }
      state_.changed.WaitFor(state_.mutex, kTick);
    }
    --state_.watchers;
    return grpc::Status::OK;
  }

  grpc::Status StreamJobMetrics(grpc::ServerContext* context,
                                const v1::StreamJobMetricsRequest* request,
                                grpc::ServerWriter<v1::StreamJobMetricsResponse>* writer) override {
    int64_t after = request->after_step();
    MutexLock lock(state_.mutex);
    while (!context->IsCancelled()) {
      v1::Job* job = Find(request->job());
      if (job == nullptr) return ToGrpcStatus(NoSuch("job", request->job()));
      for (const v1::ProgressRecord& record : state_.records[job->spec().name()]) {
        if (record.step() <= after) continue;
        after = record.step();
        v1::StreamJobMetricsResponse response;
        *response.mutable_record() = record;
        writer->Write(response);
      }
      if (!request->follow() || Final(job->state())) break;
      state_.changed.WaitFor(state_.mutex, kTick);
    }
    return grpc::Status::OK;
  }

  grpc::Status StreamJobLogs(grpc::ServerContext*, const v1::StreamJobLogsRequest* request,
                             grpc::ServerWriter<v1::StreamJobLogsResponse>* writer) override {
    MutexLock lock(state_.mutex);
    for (size_t i = 0; i < state_.logs.size(); ++i) {
      if (request->has_rank() && state_.logs[i].rank() != request->rank()) continue;
      v1::StreamJobLogsResponse response;
      response.set_number(static_cast<int64_t>(i) + 1);
      *response.mutable_line() = state_.logs[i];
      writer->Write(response);
    }
    return grpc::Status::OK;
  }

  grpc::Status CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                         v1::CancelJobResponse* response) override {
    return WithJob(request->job(), [&](v1::Job& job) {
      job.set_state(v1::JOB_STATE_CANCELLED);
      job.set_revision(job.revision() + 1);
      *response->mutable_job() = job;
    });
  }

  grpc::Status DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest* request,
                         v1::DeleteJobResponse*) override {
    return WithJob(request->job(), [](v1::Job&) {});
  }

 private:
  v1::Job* Find(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex) {
    for (v1::Job& job : state_.jobs) {
      if (job.spec().name() == name || job.id() == name) return &job;
    }
    return nullptr;
  }

  grpc::Status WithJob(const std::string& name, const std::function<void(v1::Job&)>& act) {
    MutexLock lock(state_.mutex);
    if (!state_.error.ok()) return ToGrpcStatus(state_.error);
    v1::Job* job = Find(name);
    if (job == nullptr) return ToGrpcStatus(NoSuch("job", name));
    act(*job);
    state_.changed.SignalAll();
    return grpc::Status::OK;
  }

  FakeState& state_;
};

class FakeWorkers : public v1::WorkerService::Service {
 public:
  explicit FakeWorkers(FakeState& state) : state_(state) {}

  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    MutexLock lock(state_.mutex);
    for (const v1::Worker& worker : state_.workers) *response->add_workers() = worker;
    return grpc::Status::OK;
  }

  grpc::Status GetWorker(grpc::ServerContext*, const v1::GetWorkerRequest* request,
                         v1::GetWorkerResponse* response) override {
    MutexLock lock(state_.mutex);
    for (const v1::Worker& worker : state_.workers) {
      if (worker.name() == request->worker()) *response->mutable_worker() = worker;
    }
    return response->has_worker() ? grpc::Status::OK
                                  : ToGrpcStatus(NoSuch("worker", request->worker()));
  }

 private:
  FakeState& state_;
};

class FakeCheckpoints : public v1::CheckpointService::Service {
 public:
  explicit FakeCheckpoints(FakeState& state) : state_(state) {}

  grpc::Status ListCheckpoints(grpc::ServerContext*, const v1::ListCheckpointsRequest*,
                               v1::ListCheckpointsResponse* response) override {
    MutexLock lock(state_.mutex);
    for (const v1::Checkpoint& one : state_.checkpoints) *response->add_checkpoints() = one;
    return grpc::Status::OK;
  }

  grpc::Status GetCheckpoint(grpc::ServerContext*, const v1::GetCheckpointRequest* request,
                             v1::GetCheckpointResponse* response) override {
    MutexLock lock(state_.mutex);
    return Answer(request->step(), [&](v1::Checkpoint& one) {
      one.set_verification(state_.polls_until_verified-- > 0 ? v1::VERIFICATION_STATE_PENDING
                                                             : state_.verified_as);
      *response->mutable_checkpoint() = one;
    });
  }

  grpc::Status VerifyCheckpoint(grpc::ServerContext*, const v1::VerifyCheckpointRequest* request,
                                v1::VerifyCheckpointResponse* response) override {
    MutexLock lock(state_.mutex);
    return Answer(request->step(), [&](v1::Checkpoint& one) {
      one.set_verification(v1::VERIFICATION_STATE_PENDING);
      *response->mutable_checkpoint() = one;
    });
  }

 private:
  grpc::Status Answer(int64_t step, const std::function<void(v1::Checkpoint&)>& act)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex) {
    for (v1::Checkpoint& one : state_.checkpoints) {
      if (one.step() != step) continue;
      act(one);
      return grpc::Status::OK;
    }
    return ToGrpcStatus(NoSuch("checkpoint", std::to_string(step)));
  }

  FakeState& state_;
};

class FakeDeployments : public v1::DeploymentService::Service {
 public:
  explicit FakeDeployments(FakeState& state) : state_(state) {}

  grpc::Status DeployModel(grpc::ServerContext*, const v1::DeployModelRequest* request,
                           v1::DeployModelResponse* response) override {
    MutexLock lock(state_.mutex);
    state_.deployed.push_back(*request);
    *response->mutable_deployment()->mutable_spec() = request->deployment();
    response->mutable_deployment()->set_state(v1::DEPLOYMENT_STATE_WAITING);
    return grpc::Status::OK;
  }

  grpc::Status ListDeployments(grpc::ServerContext*, const v1::ListDeploymentsRequest*,
                               v1::ListDeploymentsResponse* response) override {
    MutexLock lock(state_.mutex);
    for (const v1::Deployment& one : state_.deployments) *response->add_deployments() = one;
    return grpc::Status::OK;
  }

  grpc::Status DeleteDeployment(grpc::ServerContext*, const v1::DeleteDeploymentRequest* request,
                                v1::DeleteDeploymentResponse*) override {
    return ToGrpcStatus(NoSuch("model", request->name()));
  }

 private:
  FakeState& state_;
};

}  // namespace

FakeCoordinator::FakeCoordinator() {
  services_.push_back(std::make_unique<FakeJobs>(state));
  services_.push_back(std::make_unique<FakeWorkers>(state));
  services_.push_back(std::make_unique<FakeCheckpoints>(state));
  services_.push_back(std::make_unique<FakeDeployments>(state));
  services_.push_back(MakeFakeInference(state));
  Start();
}

FakeCoordinator::~FakeCoordinator() { Stop(); }

void FakeCoordinator::Start() {
  std::vector<GrpcService> services;
  for (const auto& service : services_) services.emplace_back(service.get());
  auto server = GrpcServer::Start({.listen = address_}, services);
  MF_CHECK_OK(server.status());
  server_ = *std::move(server);
  address_ = server_->address();
}

void FakeCoordinator::Stop() {
  if (server_ != nullptr) server_->Drain(absl::ZeroDuration());
  server_ = nullptr;
}

void FakeCoordinator::AddJob(const v1::Job& job) {
  MutexLock lock(state.mutex);
  state.jobs.push_back(job);
}

void FakeCoordinator::SetState(const std::string& name, v1::JobState job_state,
                               const std::string& reason) {
  MutexLock lock(state.mutex);
  for (v1::Job& job : state.jobs) {
    if (job.spec().name() != name) continue;
    job.set_state(job_state);
    job.set_reason(reason);
    job.set_revision(job.revision() + 1);
  }
  state.changed.SignalAll();
}

void FakeCoordinator::AddRecord(const std::string& name, const v1::ProgressRecord& record) {
  MutexLock lock(state.mutex);
  state.records[name].push_back(record);
  state.changed.SignalAll();
}

bool FakeCoordinator::WaitForWatchers(int count) {
  MutexLock lock(state.mutex);
  return state.changed.WaitFor(state.mutex, kPatience, [&] {
    state.mutex.AssertHeld();
    return state.watchers >= count;
  });
}

}  // namespace mindforge::cli
