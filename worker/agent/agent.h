// The agent: one loop that tells the coordinator what is and brings about what should be, through
// WorkerAgentService.Synchronize alone. While the coordinator is away it tries again with growing
// pauses, its trainers go on, and what they say is spooled.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "grpcpp/channel.h"
#include "mindforge/v1/worker_agent_service.grpc.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/agent_options.h"
#include "worker/agent/caretaker.h"
#include "worker/agent/identity.h"
#include "worker/agent/supervisor.h"

namespace mindforge {

// One per process. Borrows identity and registry.
class Agent {
 public:
  Agent(const AgentOptions& options, const std::vector<v1::Device>& devices, Identity& identity,
        MetricsRegistry& registry, std::shared_ptr<grpc::Channel> channel);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // Works until RequestDrain, then stops the trainers at a checkpoint, tells the coordinator what
  // became of them, and returns OK. ABORTED (AGENT_REPLACED) once the coordinator says that another
  // agent has this one's id and place: its trainers are killed then. The trainers die with the
  // calling thread.
  absl::Status Run();

  // Thread-safe. Run returns within drain_timeout and a few seconds.
  void RequestDrain();

  // Thread-safe: checkpoints that the coordinator has not acknowledged.
  size_t checkpoints_waiting() const { return supervisor_.CheckpointsWaiting(); }

 private:
  struct Call;

  void Adopt();
  void StartCallIfDue();
  void WaitForEvent();
  void CollectCalls();
  void Conclude(const Call& call);
  void Failed(const absl::Status& status);
  // Moves the drain on; true when there is nothing left to wait for.
  bool Drained();
  void Notify(Urgency urgency);
  void FillRequest(v1::SynchronizeRequest* request);
  bool IsCallDue(absl::Duration now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // When something is to be done even if nothing happens.
  absl::Duration NextDeadline() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const AgentOptions options_;
  const std::string incarnation_;
  Identity& identity_;
  const std::unique_ptr<v1::WorkerAgentService::Stub> stub_;
  const RealClock clock_;
  AgentMetrics metrics_;

  // The loop's own.
  int64_t calls_made_ = 0;
  int64_t newest_answered_ = 0;
  google::protobuf::RepeatedPtrField<v1::DesiredDevice> desired_;
  int64_t desired_version_ = 0;
  int failures_in_a_row_ = 0;
  std::string last_failure_;
  absl::Status replaced_;  // not OK: by another agent, whose trainers are the ones that count
  bool stop_ordered_ = false;
  absl::Duration drain_started_ = absl::InfiniteDuration();
  absl::Duration trainers_gone_ = absl::InfiniteDuration();

  mutable Mutex mutex_;
  CondVar changed_;
  bool event_ ABSL_GUARDED_BY(mutex_) = false;   // look again
  bool urgent_ ABSL_GUARDED_BY(mutex_) = false;  // something to tell at once
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;   // something to tell soon
  bool drain_requested_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t events_ ABSL_GUARDED_BY(mutex_) = 0;            // counts changes
  int64_t events_delivered_ ABSL_GUARDED_BY(mutex_) = 0;  // those the coordinator knows
  absl::Duration next_call_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  std::vector<std::unique_ptr<Call>> in_flight_ ABSL_GUARDED_BY(mutex_);

  // Last: their threads notify the above.
  Supervisor supervisor_;
  Caretaker caretaker_;  // uses the supervisor
};

}  // namespace mindforge
