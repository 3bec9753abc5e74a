// The inference worker's side of Synchronize: tells the coordinator what is served here and has the
// model host serve what it answers. When the coordinator is away what is served goes on being
// served.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "mindforge/v1/inference_agent_service.grpc.pb.h"
#include "worker/serve/model_host.h"

namespace mindforge {

// Thread-safe. Borrows the host. The destructor stops it.
class InferenceAgent {
 public:
  struct Options {
    std::shared_ptr<grpc::Channel> channel;
    std::string coordinator;  // what `channel` leads to, for messages
    std::string worker_id;
    std::string name;
    std::string version;
    std::string address;  // that others reach this worker's InferenceService by
    std::string device;
    absl::Duration call_timeout = absl::Seconds(60);  // above any park
    absl::Duration first_backoff = absl::Milliseconds(100);
    absl::Duration last_backoff = absl::Seconds(5);
  };

  InferenceAgent(Options options, ModelHost& host);
  ~InferenceAgent();  // Stop()

  void Start();
  // The host's state changed: tells the coordinator now instead of at the end of the parked call.
  void Poke();
  void Stop();

 private:
  void Run();
  v1::InferenceAgentServiceSynchronizeRequest Report(bool no_park) const;
  absl::Status Call(const v1::InferenceAgentServiceSynchronizeRequest& request,
                    v1::InferenceAgentServiceSynchronizeResponse* response);
  // Waits; false: stop. Returns early when poked.
  bool Wait(absl::Duration duration);
  // The same after a failed call: also returns early when a lost coordinator is connected again.
  bool WaitToRetry(absl::Duration duration);
  // Poked or stopping.
  bool Disturbed();

  const Options options_;
  ModelHost& host_;
  const std::string incarnation_;
  const std::unique_ptr<v1::InferenceAgentService::Stub> stub_;
  int64_t known_version_ = 0;  // agent's thread only

  Mutex mutex_;
  CondVar poked_or_stopped_;
  bool poked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // the call under way
  bool parked_ ABSL_GUARDED_BY(mutex_) = false;                  // it may be parked
  std::thread thread_;  // calls the coordinator; last, it uses all of the above
};

}  // namespace mindforge
