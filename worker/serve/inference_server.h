// mindforge-inference without its main: the engine's host, the gRPC services around it, metrics,
// and the agent that asks the coordinator what to serve.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/grpc_server.h"
#include "common/metrics.h"
#include "common/open_streams.h"
#include "worker/serve/courier.h"
#include "worker/serve/inference_agent.h"
#include "worker/serve/inference_metrics.h"
#include "worker/serve/inference_options.h"
#include "worker/serve/inference_service.h"
#include "worker/serve/model_host.h"
#include "worker/serve/worker_identity.h"

namespace mindforge {

// A running inference worker. Thread-safe. The destructor stops it at once if Drain has not.
class InferenceServer {
 public:
  // Listens; what is served is loaded afterwards. `loader` unset: model folders. Errors name the
  // flag or setting that is wrong.
  static absl::StatusOr<std::unique_ptr<InferenceServer>> Start(const InferenceOptions& options,
                                                                ModelHost::Loader loader = nullptr);
  ~InferenceServer();

  const std::string& address() const { return server_->address(); }
  int metrics_port() const { return metrics_server_->port(); }

  // With `model`: waits until it is served, or says why it cannot be. Else OK at once.
  absl::Status WaitForModel();

  // Requests under way have until `timeout`, but not those whose callers do not read; new ones are
  // refused at once. Then everything ends.
  void Drain(absl::Duration timeout);

  ModelHost& host() { return *host_; }

 private:
  InferenceServer(const InferenceOptions& options, ModelHost::Loader loader);
  absl::Status Listen();
  absl::Status StartAgent();
  void HostChanged();

  const InferenceOptions options_;
  std::string worker_id_;
  WorkerIdentity identity_;  // with a coordinator
  // In order of construction: each is used by those below it.
  const RealClock clock_;
  MetricsRegistry registry_;
  InferenceMetrics metrics_;
  Courier courier_;
  OpenStreams streams_;
  std::unique_ptr<ModelHost> host_;
  std::unique_ptr<InferenceServiceImpl> service_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<InferenceAgent> agent_;
};

}  // namespace mindforge
