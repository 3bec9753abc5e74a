// A coordinator that does what a test says: every service the command line speaks to, in this
// process, with state that outlives Stop and Start.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/grpc_server.h"
#include "common/mutex.h"
#include "mindforge/v1/checkpoint_service.grpc.pb.h"
#include "mindforge/v1/deployment_service.grpc.pb.h"
#include "mindforge/v1/inference_service.grpc.pb.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "mindforge/v1/worker_service.grpc.pb.h"

namespace mindforge::cli {

// What the services show and what they were asked. Thread-safe through its mutex.
struct FakeState {
  Mutex mutex;
  CondVar changed;
  std::vector<v1::Job> jobs ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::vector<v1::ProgressRecord>> records ABSL_GUARDED_BY(mutex);
  std::vector<v1::LogLine> logs ABSL_GUARDED_BY(mutex);
  std::vector<v1::JobEvent> events ABSL_GUARDED_BY(mutex);
  std::vector<v1::Worker> workers ABSL_GUARDED_BY(mutex);
  std::vector<v1::Checkpoint> checkpoints ABSL_GUARDED_BY(mutex);
  std::vector<v1::Deployment> deployments ABSL_GUARDED_BY(mutex);
  std::vector<std::string> pieces ABSL_GUARDED_BY(mutex);  // what Generate streams
  std::string weights_version ABSL_GUARDED_BY(mutex) = "w1";
  std::vector<std::string> numerics ABSL_GUARDED_BY(mutex) = {"n1"};  // of replicas, taken in turn
  bool hold_generation ABSL_GUARDED_BY(mutex) = false;                // never finish
  absl::Status error ABSL_GUARDED_BY(mutex);                          // of every unary job call
  int fail_submits ABSL_GUARDED_BY(mutex) = 0;  // so many end UNAVAILABLE first
  int polls_until_verified ABSL_GUARDED_BY(mutex) = 0;
  v1::VerificationState verified_as ABSL_GUARDED_BY(mutex) = v1::VERIFICATION_STATE_VALID;
  int watchers ABSL_GUARDED_BY(mutex) = 0;
  int cancelled_generations ABSL_GUARDED_BY(mutex) = 0;
  std::vector<v1::SubmitJobRequest> submitted ABSL_GUARDED_BY(mutex);
  std::vector<v1::GenerateRequest> generated ABSL_GUARDED_BY(mutex);
  std::vector<v1::DeployModelRequest> deployed ABSL_GUARDED_BY(mutex);
  std::vector<v1::ListJobsRequest> listed ABSL_GUARDED_BY(mutex);
};

std::unique_ptr<grpc::Service> MakeFakeInference(FakeState& state);

class FakeCoordinator {
 public:
  FakeCoordinator();
  ~FakeCoordinator();

  // Start again listens on the same port.
  void Start();
  void Stop();
  const std::string& address() const { return address_; }

  FakeState state;

  void AddJob(const v1::Job& job);
  // Changes the job of that name and wakes its watchers.
  void SetState(const std::string& name, v1::JobState job_state, const std::string& reason);
  void AddRecord(const std::string& name, const v1::ProgressRecord& record);
  // Waits up to 10 s for `count` open watches.
  bool WaitForWatchers(int count);

 private:
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<GrpcServer> server_;
  std::string address_ = "127.0.0.1:0";
};

}  // namespace mindforge::cli
