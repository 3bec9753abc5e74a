// The trainers of this machine: one per device that has work. Starts, tells and ends them, hears
// them, and keeps what they said until the coordinator has it. It does not know gRPC.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/mutex.h"
#include "mindforge/v1/worker_agent_service.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/agent_options.h"
#include "worker/agent/identity.h"
#include "worker/agent/reconcile.h"
#include "worker/agent/spool.h"
#include "worker/agent/trainer_process.h"

namespace mindforge {

// How soon the coordinator should hear of a change.
enum class Urgency { kBatched, kAtOnce };

// Thread-safe, except that Apply, StopAll and KillAll are for one thread, which must outlive
// the trainers (they die with it). Borrows options, identity and metrics.
class Supervisor {
 public:
  // `on_change` runs on trainers' threads, without any lock held.
  Supervisor(const AgentOptions& options, const std::vector<v1::Device>& devices,
             Identity& identity, AgentMetrics& metrics, std::function<void(Urgency)> on_change);
  ~Supervisor();  // kills what still runs
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // The checkpoint folder of each job that has a device here, by job.
  std::map<std::string, std::string> JobFolders() const;
  // The same of the jobs that ran here before the agent's restart and whose newest checkpoint the
  // coordinator has not acknowledged since.
  std::map<std::string, std::string> JobsBefore() const;
  // True for a step of a job with a device here that is beyond all that the coordinator has heard
  // of or is about to.
  bool IsNewCheckpoint(const std::string& job_id, int64_t step) const;
  // Reports a sound folder that was found.
  void Found(const std::string& job_id, const v1::CheckpointWritten& checkpoint);
  // A job that ran here before left none that is sound: it is not looked for again.
  void NothingFound(const std::string& job_id);

  // Takes the actions that lead to `desired`.
  void Apply(const google::protobuf::RepeatedPtrField<v1::DesiredDevice>& desired, bool draining);

  // Puts state and spool into `request`. True when more is waiting than one call carries.
  bool Fill(v1::SynchronizeRequest* request) const;
  void Acknowledge(const v1::SynchronizeResponse& response);

  bool AnyRunning() const;
  bool SpoolEmpty() const;
  size_t CheckpointsWaiting() const;

  // Orders every trainer that has not been told yet to checkpoint and stop; one that has nothing to
  // save is killed.
  void StopAll();
  // Kills every trainer and waits until all are gone.
  void KillAll();

 private:
  // One device. Fields without annotation are for the applying thread alone.
  struct Slot {
    v1::Device device;
    v1::StartTraining start;  // empty job: nothing runs and nothing ended here
    v1::TrainerStatus status;
    std::optional<v1::TrainerFailure> failure;
    std::optional<v1::TrainerExit> exit;
    std::string rendezvous;
    std::string last_line;
    int64_t stop_sequence = 0;
    int checkpoint_failures = 0;  // in a row, up to the newest
    std::string checkpoint_error;
    bool joined = false;
    bool killed = false;

    bool busy() const { return !start.job_id().empty(); }
    bool running() const { return busy() && !exit; }
  };

  void Take(const Action& action);
  void Start(size_t index, const v1::DesiredDevice& desired);
  void Forget(size_t index);
  void Send(size_t index, const v1::TrainerOrder& order);
  void RememberJobs();
  size_t IndexOf(const std::string& device_id) const;

  void OnReport(size_t index, const v1::TrainerReport& report);
  Urgency Note(Slot& slot, const v1::TrainerReport& report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnLine(size_t index, std::string_view line);
  void OnExit(size_t index, const ExitStatus& exit, const std::string& why_killed);
  void AddLog(const Slot& slot, int rank, v1::LogLine line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddAgentLog(const Slot& slot, v1::LogLevel level, const std::string& text)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddCheckpoint(const std::string& job_id, const v1::CheckpointWritten& checkpoint)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateSpoolMetrics() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const AgentOptions& options_;
  Identity& identity_;
  AgentMetrics& metrics_;
  const std::function<void(Urgency)> on_change_;

  mutable Mutex mutex_;
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  Spool spool_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> jobs_before_ ABSL_GUARDED_BY(mutex_);
  // The newest step that was a resume point or is reported, of each job that has a device here.
  std::map<std::string, int64_t> newest_known_ ABSL_GUARDED_BY(mutex_);

  // By device; for the applying thread alone. Last: their threads use all of the above.
  std::vector<std::unique_ptr<TrainerProcess>> trainers_;
};

}  // namespace mindforge
