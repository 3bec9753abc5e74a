// The coordinator as one object: store, shell, services, server and metrics, put together in the
// order they depend on each other.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/grpc_server.h"
#include "common/metrics.h"
#include "common/open_streams.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/gateway/inference_agent_service.h"
#include "coordinator/gateway/inference_gateway.h"
#include "coordinator/gateway/inference_pool.h"
#include "coordinator/gateway/registry.h"
#include "coordinator/inference_models.h"
#include "coordinator/rpc/checkpoint_service.h"
#include "coordinator/rpc/deployment_service.h"
#include "coordinator/rpc/job_service.h"
#include "coordinator/rpc/worker_agent_service.h"
#include "coordinator/rpc/worker_service.h"
#include "coordinator/shell.h"
#include "coordinator/tracking/tracker.h"
#include "mindforge/v1/config.pb.h"

namespace mindforge {

// What CoordinatorConfig says, parsed and checked.
struct CoordinatorOptions {
  GrpcServerOptions server;
  std::string data_dir = "mindforge-data/coordinator";
  std::string metrics = "127.0.0.1:9464";
  sched::Settings settings;
  absl::Duration synchronize_park = absl::Seconds(5);
  StreamLimits streams;
  std::string tensorboard_dir;  // empty: `tensorboard` in data_dir; "off": none is written
};

// Fills in the defaults and checks every setting. INVALID_ARGUMENT lists all that cannot be.
absl::StatusOr<CoordinatorOptions> ParseOptions(const v1::CoordinatorConfig& config);

// A serving coordinator. The destructor ends it at once; Drain first for a clean stop.
class Coordinator {
 public:
  // Opens the store and serves. Errors name the setting at fault. Borrows `clock`.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(const CoordinatorOptions& options,
                                                            const Clock& clock);
  ~Coordinator();

  const std::string& address() const { return server_->address(); }
  std::string metrics_address() const;
  Shell& shell() { return *shell_; }

  // Answers parked calls, ends streams, lets other calls finish until `deadline`.
  void Drain(absl::Duration deadline);

 private:
  Coordinator(const CoordinatorOptions& options, const Clock& clock);
  absl::Status StartServing(const CoordinatorOptions& options);
  absl::Status MakeTracker(const CoordinatorOptions& options);

  // In the order of dependence: each uses those above it.
  const Clock& clock_;
  const std::string metrics_host_;
  MetricsRegistry registry_;
  CoordinatorMetrics metrics_;
  std::unique_ptr<Store> store_;
  InferenceRegistry inference_;
  // Told by the shell what is new; looks at the shell in turn, from a thread that ends first.
  std::unique_ptr<TrackedJobs> tracked_jobs_;
  std::unique_ptr<Tracker> tracker_;
  std::unique_ptr<Shell> shell_;
  std::unique_ptr<InferenceModels> models_;
  std::unique_ptr<InferencePool> pool_;
  OpenStreams streams_;
  std::unique_ptr<JobService> jobs_;
  std::unique_ptr<CheckpointService> checkpoints_;
  std::unique_ptr<WorkerService> workers_;
  std::unique_ptr<DeploymentService> deployments_;
  std::unique_ptr<WorkerAgentService> agents_;
  std::unique_ptr<InferenceAgentService> inference_agents_;
  std::unique_ptr<InferenceGateway> gateway_;
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace mindforge
