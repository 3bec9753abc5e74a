// What may happen to the coordinator (Event), and what follows from it (Outcome): rows to make
// durable, whom to wake, what to measure, and the answer to the caller.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/scheduler/types.h"

namespace mindforge::sched {

// A caller's name for a mutation; the digest is of its method and body.
struct Request {
  std::string id;
  std::string digest;
};

struct SubmitJob {
  JobId id;  // drawn by the caller of Step; unused when the request is known
  JobWish wish;
  std::string spec;
  Request request;
};
struct CancelJob {
  std::string job;
  Request request;
};
struct PauseJob {
  std::string job;
  Request request;
};
struct ResumeJob {
  std::string job;
  Request request;
};
struct ScaleJob {
  std::string job;
  int min = 0;
  int max = 0;
  Request request;
};
// Another name of numerics for a job of which no member runs.
struct RepinJob {
  std::string job;
  std::string numerics;  // empty: those of its next start
  Request request;
};
struct DeleteJob {
  std::string job;
  Request request;
};

enum class CheckpointAction { kVerify, kPin, kUnpin, kDelete };
struct ChangeCheckpoint {
  std::string job;
  int64_t step = 0;
  CheckpointAction action = CheckpointAction::kVerify;
  Request request;
};

struct DrainWorker {
  std::string worker;
  bool drained = true;  // false: give it work again
  Request request;
};

struct DeployModel {
  Deployment deployment;  // its `job` is a name or an id
  Request request;
};
struct DeleteDeployment {
  std::string name;
  Request request;
};

template <typename T>
struct Spooled {
  int64_t number = 0;
  JobId job;
  T item;
};

struct CheckpointWritten {
  int64_t step = 0;
  Generation generation;
  std::string path;
  int64_t size_bytes = 0;
  double loss = 0;
  std::optional<double> validation_loss;
  std::string manifest_digest;
  bool final = false;
};
struct CheckpointCorrupt {
  int64_t step = 0;
  Generation generation;
  std::string detail;
};
struct VerifyResult {
  std::string path;
  bool valid = false;
  std::string detail;
  bool unreadable = false;  // by this worker: nothing is known of the content
};

// An agent's call: its whole current state.
struct WorkerReport {
  WorkerRecord worker;      // without acks and drained
  int64_t call_number = 0;  // grows with each call of the incarnation
  bool stopping = false;
  std::vector<DeviceStatus> statuses;
  std::vector<Spooled<Progress>> progress;
  std::vector<Spooled<LogLine>> logs;
  std::vector<Spooled<CheckpointWritten>> checkpoints;
  std::vector<Spooled<CheckpointCorrupt>> corruptions;
  std::vector<VerifyResult> verify_results;
  std::vector<std::string> deleted_paths;
};

// A call of this worker was answered just now: its lease begins anew.
struct WorkerAnswered {
  WorkerId id;
};

struct InferenceReport {
  InferenceNode node;  // without what it was given
};
struct InferenceGone {
  WorkerId id;
};

// Time passed.
struct Tick {};
// The coordinator itself stood still: nobody could reach it, so all leases begin anew.
struct Stalled {
  bool began = true;  // false: it goes on, and has been told of
};

using Event =
    std::variant<SubmitJob, CancelJob, PauseJob, ResumeJob, ScaleJob, RepinJob, DeleteJob,
                 ChangeCheckpoint, DrainWorker, DeployModel, DeleteDeployment, WorkerReport,
                 WorkerAnswered, InferenceReport, InferenceGone, Tick, Stalled>;

// Rows to write and to delete, in one transaction.
struct Changes {
  std::vector<JobRecord> jobs;
  std::vector<JobId> deleted_jobs;  // with all that belongs to them
  std::vector<std::pair<JobId, std::pair<int64_t, JobEvent>>> events;  // number, event
  std::vector<std::pair<JobId, Progress>> progress;  // kept only as the first of (job, step)
  std::vector<std::pair<JobId, std::pair<int64_t, LogLine>>> logs;  // number, line
  std::vector<std::pair<JobId, Milestone>> milestones;
  std::vector<WorkerRecord> workers;
  std::vector<WorkerId> deleted_workers;
  std::vector<Checkpoint> checkpoints;
  std::vector<std::pair<JobId, int64_t>> deleted_checkpoints;
  std::vector<DeleteOrder> delete_orders;
  std::vector<std::string> done_delete_orders;
  std::vector<Deployment> deployments;
  std::vector<std::string> deleted_deployments;
  std::vector<RequestRecord> requests;
  std::vector<std::string> forgotten_requests;

  bool empty() const {
    return jobs.empty() && deleted_jobs.empty() && events.empty() && progress.empty() &&
           logs.empty() && milestones.empty() && workers.empty() && deleted_workers.empty() &&
           checkpoints.empty() && deleted_checkpoints.empty() && delete_orders.empty() &&
           done_delete_orders.empty() && deployments.empty() && deleted_deployments.empty() &&
           requests.empty() && forgotten_requests.empty();
  }
};

enum class Measure {
  kQueueWaitSeconds,
  kRecovery,         // label: cause
  kRecoverySeconds,  // label: phase
  kWorldSizeChange,
};
struct Measurement {
  Measure what;
  std::string label;
  double value = 1;
};

struct Outcome {
  // The answer to a command; an error changed nothing.
  absl::Status status;
  // The job, deployment or worker that the command was about.
  JobId job;
  std::string name;
  // The request was known: nothing was done now.
  bool repeated = false;
  // A report that a later one of the same agent overtook: its state was not taken.
  bool outdated = false;

  Changes changes;
  std::set<JobId> touched_jobs;        // something that watchers see has changed
  std::set<WorkerId> touched_workers;  // their desired state may have changed
  bool touched_inference = false;
  std::vector<JobId> ended_jobs;
  std::vector<Measurement> measurements;
  // Decisions in words, for the log.
  std::vector<std::string> log;
};

}  // namespace mindforge::sched
