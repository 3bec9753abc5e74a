// A whole coordinator in this process on a port of its own, with stubs and a hand-driven agent.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/grpc_client.h"
#include "common/grpc_status.h"
#include "coordinator/coordinator.h"
#include "mindforge/v1/checkpoint_service.grpc.pb.h"
#include "mindforge/v1/deployment_service.grpc.pb.h"
#include "mindforge/v1/inference_agent_service.grpc.pb.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "mindforge/v1/worker_agent_service.grpc.pb.h"
#include "mindforge/v1/worker_service.grpc.pb.h"
#include "tests/coordinator/good_job.h"
#include "tests/fakes/temp_dir.h"

namespace mindforge {

inline constexpr absl::Duration kCallTimeout = absl::Seconds(20);

class ServiceFixture : public ::testing::Test {
 protected:
  ServiceFixture() {
    options_.server.listen = "127.0.0.1:0";
    options_.metrics = "127.0.0.1:0";
    options_.data_dir = folder_.File("store");
    options_.settings.gather_window = absl::ZeroDuration();
    Start();
  }

  void Start() {
    auto started = Coordinator::Start(options_, clock_);
    MF_CHECK_OK(started.status());
    coordinator_ = *std::move(started);
    auto channel = MakeChannel(coordinator_->address());
    MF_CHECK_OK(channel.status());
    jobs_ = v1::JobService::NewStub(*channel);
    checkpoints_ = v1::CheckpointService::NewStub(*channel);
    workers_ = v1::WorkerService::NewStub(*channel);
    deployments_ = v1::DeploymentService::NewStub(*channel);
    agents_ = v1::WorkerAgentService::NewStub(*channel);
    inference_ = v1::InferenceAgentService::NewStub(*channel);
  }

  // Calls `method` of `stub` and gives the status with its details.
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    SetDeadline(context, kCallTimeout);
    return FromGrpcStatus((stub.*method)(&context, request, response));
  }

  absl::Status Submit(const v1::JobSpec& spec, const std::string& request_id,
                      v1::SubmitJobResponse* response) {
    v1::SubmitJobRequest request;
    *request.mutable_job() = spec;
    request.set_request_id(request_id);
    return Call(*jobs_, &v1::JobService::Stub::SubmitJob, request, response);
  }
  v1::Job SubmitGood(const std::string& name) {
    v1::SubmitJobResponse response;
    MF_CHECK_OK(Submit(GoodJob(name), "request-" + name, &response));
    return response.job();
  }
  v1::Job Get(const std::string& job) {
    v1::GetJobRequest request;
    request.set_job(job);
    v1::GetJobResponse response;
    MF_CHECK_OK(Call(*jobs_, &v1::JobService::Stub::GetJob, request, &response));
    return response.job();
  }
  absl::Status Cancel(const std::string& job) {
    v1::CancelJobRequest request;
    request.set_job(job);
    request.set_request_id("cancel-" + job);
    v1::CancelJobResponse response;
    return Call(*jobs_, &v1::JobService::Stub::CancelJob, request, &response);
  }

  // An agent with one device; `report` holds what it says besides.
  v1::SynchronizeRequest Report(const std::string& name) {
    v1::SynchronizeRequest request;
    request.set_worker_id(name + "-id");
    request.set_name(name);
    request.set_incarnation("one");
    request.set_advertise_host("127.0.0.1");
    v1::Device* device = request.add_devices();
    device->set_id("cpu:0");
    device->set_kind(v1::DEVICE_KIND_CPU);
    device->set_signature("cpu/x/1");
    request.set_no_park(true);
    return request;
  }
  // The agent's next call, unless `request` is numbered.
  absl::Status Synchronize(v1::SynchronizeRequest request, v1::SynchronizeResponse* response) {
    if (request.call_number() == 0) request.set_call_number(++calls_);
    return Call(*agents_, &v1::WorkerAgentService::Stub::Synchronize, request, response);
  }
  // Takes the agent's order and says that its trainer trains.
  v1::SynchronizeRequest Obey(const std::string& name) {
    v1::SynchronizeRequest request = Report(name);
    v1::SynchronizeResponse response;
    MF_CHECK_OK(Synchronize(request, &response));
    MF_CHECK(response.devices_size() == 1 && response.devices(0).has_start())
        << response.DebugString();
    const v1::StartTraining& start = response.devices(0).start();
    v1::DeviceStatus* status = request.add_device_status();
    status->set_device_id("cpu:0");
    status->set_job_id(start.job_id());
    status->set_generation(start.generation());
    status->set_rank(start.rank());
    status->mutable_status()->set_phase(v1::TRAINER_PHASE_TRAINING);
    MF_CHECK_OK(Synchronize(request, &response));
    return request;
  }

  TempDir folder_;
  RealClock clock_;
  CoordinatorOptions options_;
  std::atomic<int64_t> calls_ = 0;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
  std::unique_ptr<v1::DeploymentService::Stub> deployments_;
  std::unique_ptr<v1::WorkerAgentService::Stub> agents_;
  std::unique_ptr<v1::InferenceAgentService::Stub> inference_;
};

}  // namespace mindforge
