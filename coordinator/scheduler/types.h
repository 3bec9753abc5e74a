// What the coordinator remembers: the records that the store keeps (…Record, Checkpoint,
// Deployment…) and what it knows only while it lives (the rest of Job, Worker, InferenceNode).
//
// A job's whole specification and a step's whole record pass through as opaque bytes: the scheduler
// reads only what it decides by.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/ids.h"
#include "common/training_numerics.h"
#include "coordinator/scheduler/device_faults.h"
#include "coordinator/scheduler/job_state.h"

namespace mindforge::sched {

// One reading of both clocks.
struct Now {
  absl::Time wall;      // for people and records
  absl::Duration mono;  // for leases and timeouts
};

enum class DeviceKind { kCpu = 1, kCuda = 2 };

// One device that can hold a rank.
struct Device {
  std::string id;  // "cpu:0"
  DeviceKind kind = DeviceKind::kCpu;
  std::string model;
  int64_t memory_bytes = 0;
  int threads = 0;
  std::string signature;  // of an agent without `numerics`: its numerics' name for every dtype
  std::vector<TrainingNumerics> numerics =
      {};  // one a dtype; all ranks of a job have the same name
  friend bool operator==(const Device&, const Device&) = default;
};

// What the scheduler decides a job by.
struct JobWish {
  std::string name;
  int min_workers = 1;
  int max_workers = 1;
  int64_t accumulation_steps = 8;
  std::optional<DeviceKind> device;  // none: any
  int priority = 0;                  // higher first
  std::string checkpoint_dir;        // the job's own folder is its id below it
  int64_t keep_last = 3;
  int64_t keep_every = 0;
  int max_failures = 3;
  // Not stored, since the specification has them: training.dtype, and the fields in use
  // ("data.format, training.schedule") that a trainer of an agent without named numerics would
  // leave unread.
  std::string dtype = "";
  std::string newer_fields = "";
  friend bool operator==(const JobWish&, const JobWish&) = default;
};

// One rank's place.
struct MemberPlace {
  WorkerId worker;
  std::string device;
  friend bool operator==(const MemberPlace&, const MemberPlace&) = default;
};

struct WorldSizeChange {
  Generation generation;
  Step from_step;  // the newest committed checkpoint's, where the generation began
  int world_size = 0;
};

// From `generation` on the job was computed with the numerics of this name.
struct NumericsChange {
  Generation generation;
  Step from_step;  // as WorldSizeChange's
  std::string name;
  friend bool operator==(const NumericsChange&, const NumericsChange&) = default;
};

// Why the members of a job were told to checkpoint and stop.
enum class StopPurpose { kNone = 0, kPause = 1, kResize = 2 };

// The durable part of a job.
struct JobRecord {
  JobId id;
  int64_t sequence = 0;  // grows by one a submit: the order of submission
  JobWish wish;
  std::string spec;  // serialized JobSpec, complete
  JobState state = JobState::kQueued;
  std::string reason;
  Generation generation;
  std::vector<MemberPlace> members;  // by rank; empty when it holds no device
  int failures = 0;
  // The furthest step ever done when a trainer last ended of itself; -1: none has yet.
  int64_t exit_step = -1;
  absl::Time retry_at = absl::InfinitePast();  // not placed before; InfinitePast: at any time
  absl::Time submitted_at = absl::InfinitePast();
  absl::Time started_at = absl::InfinitePast();   // InfinitePast: not yet
  absl::Time finished_at = absl::InfinitePast();  // InfinitePast: not yet
  int64_t revision = 0;
  std::string device_signature;  // the numerics it is pinned to; empty: those of its next start
  std::string dataset_digest;
  int64_t skipped_lines = 0;  // of the dataset, as malformed
  bool pause_requested = false;
  bool scale_asked = false;  // and not carried out yet
  StopPurpose stop = StopPurpose::kNone;
  int64_t stop_sequence = 0;
  std::vector<WorldSizeChange> world_sizes;
  std::vector<NumericsChange> numerics;
};

// One decision about a job.
struct JobEvent {
  absl::Time at;
  JobState state = JobState::kQueued;
  Generation generation;
  std::string reason;
};

enum class Phase {
  kUnknown = 0,
  kWarmingUp = 1,
  kJoining = 2,
  kTraining = 3,
  kFinished = 4,
  kStopped = 5,
  kFailed = 6,
};

enum class FailureKind {
  kUnspecified = 0,
  kUser = 1,
  kPeer = 2,
  kInternal = 3,
  kOutOfMemory = 4,
  kWorker = 5,
};

struct FieldProblem {
  std::string field;
  std::string description;
  friend bool operator==(const FieldProblem&, const FieldProblem&) = default;
};

// How a trainer ended.
struct TrainerExit {
  bool clean = false;
  std::string cause;  // "killed by signal 9"
  FailureKind kind = FailureKind::kUnspecified;
  std::string message;
  std::vector<FieldProblem> problems;
  friend bool operator==(const TrainerExit&, const TrainerExit&) = default;
};

// What an agent last said of one device.
struct DeviceStatus {
  std::string device;
  JobId job;
  Generation generation;
  int rank = 0;
  Phase phase = Phase::kUnknown;
  int64_t step = 0;
  std::string dataset_digest;
  int64_t total_steps = 0;
  std::string detail;
  int64_t skipped_lines = 0;
  std::string rendezvous;
  std::optional<TrainerExit> exit;
  int64_t stop_sequence = 0;
  int64_t activity = 0;         // grows with whatever it gets done
  int checkpoint_failures = 0;  // in a row, up to the newest
  std::string checkpoint_error;
  friend bool operator==(const DeviceStatus&, const DeviceStatus&) = default;
};

// One optimizer step as rank 0 reported it.
struct Progress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  Generation generation;
  int world_size = 0;
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  int64_t tokens = 0;
  double tokens_per_second = 0;
  double step_seconds = 0;
  std::optional<double> validation_loss;  // of this step; in Job, of the newest that has one
  std::optional<double> loss_scale;       // float16 alone
  int64_t skipped_steps = 0;              // so far in the job
  bool skipped = false;                   // it changed nothing: its loss is not the model's
  std::string bytes;                      // the serialized ProgressRecord
};

// What a chart of the job's training marks: what happened to it, and at which step.
enum class MilestoneKind { kCheckpoint = 1, kRestart = 2, kWorldSize = 3 };
struct Milestone {
  int64_t number = 0;  // grows by one within the job
  MilestoneKind kind = MilestoneKind::kCheckpoint;
  absl::Time at;
  int64_t step = 0;
  std::string text;
  friend bool operator==(const Milestone&, const Milestone&) = default;
};

struct LogLine {
  int rank = -1;
  std::string bytes;  // the serialized LogLine
};

enum class CheckpointState { kCommitted = 1, kCorrupt = 2, kDeleting = 3 };
enum class Verification { kNone = 0, kPending = 1, kValid = 2, kCorrupt = 3, kUnreadable = 4 };

// A recorded checkpoint; (job, step) names it.
struct Checkpoint {
  JobId job;
  int64_t step = 0;
  Generation generation;
  CheckpointState state = CheckpointState::kCommitted;
  std::string path;
  int64_t size_bytes = 0;
  double loss = 0;
  std::optional<double> validation_loss;
  absl::Time committed_at = absl::InfinitePast();
  bool pinned = false;
  std::string manifest_digest;
  bool final = false;  // the job's last step
  WorkerId worker;     // who wrote it, and is asked first to verify or delete it
  Verification verification = Verification::kNone;
  std::string verification_detail;
  absl::Time verified_at = absl::InfinitePast();
};

// A folder that was refused (an older generation's) or replaced and is to be deleted.
struct DeleteOrder {
  std::string path;
  JobId job;
  WorkerId worker;
};

// Numbers of the newest spooled items of a worker that are durable.
struct SpoolAcks {
  int64_t progress = 0;
  int64_t logs = 0;
  int64_t checkpoints = 0;
  int64_t corruptions = 0;
  friend bool operator==(const SpoolAcks&, const SpoolAcks&) = default;
};

// The durable part of a training node.
struct WorkerRecord {
  WorkerId id;
  std::string name;
  std::string version;
  std::string advertise_host;
  std::string incarnation;
  std::string spool;  // names what `acks` are the numbers of
  std::vector<Device> devices;
  bool drained = false;  // a person asked for it
  SpoolAcks acks;
  friend bool operator==(const WorkerRecord&, const WorkerRecord&) = default;
};

enum class WorkerState { kReady = 1, kDraining = 2, kLost = 3 };

struct Worker : WorkerRecord {
  bool stopping = false;  // the agent itself is being stopped
  bool lost = false;      // its lease ran out
  bool reported = false;  // since this coordinator started
  // The newest call of this incarnation that was taken, and the incarnation before it.
  int64_t newest_call = 0;
  std::string former_incarnation;
  absl::Duration lease_from = absl::ZeroDuration();
  absl::Time last_seen = absl::InfinitePast();
  std::map<std::string, DeviceStatus> statuses;  // by device
  std::map<std::string, DeviceFaults> faults;    // by device; those without any are not in it
  // Grows whenever what it should do may have changed; begins at the wall clock's microseconds, so
  // that no two runs of the coordinator share one.
  int64_t desired_version = 0;

  WorkerState state() const {
    return lost ? WorkerState::kLost
                : (drained || stopping ? WorkerState::kDraining : WorkerState::kReady);
  }
};

// What is known of a member beyond its place.
struct MemberLive {
  bool seen = false;  // reported running in this generation
  bool gone = false;  // its trainer ended
  Phase phase = Phase::kUnknown;
  int64_t step = 0;
  std::string detail;
  int64_t activity = 0;
  // When its agent last told of it, and for how long it had told the same by then; the time in
  // which the agent was not heard is not in it.
  std::optional<absl::Duration> heard_at;
  absl::Duration still_for = absl::ZeroDuration();
};

// A job and what is known of it only while the coordinator lives.
struct Job : JobRecord {
  std::vector<MemberLive> live;  // by rank, as long as members
  std::string rendezvous;        // of this generation, once rank 0's agent has told
  std::deque<JobEvent> events;   // the newest, durable in a table of their own
  int64_t event_count = 0;
  int64_t log_count = 0;
  int64_t milestone_count = 0;
  Progress progress;     // the newest record; after a restart it may go back
  int64_t max_step = 0;  // the furthest ever: steps up to it are done again, not done
  double first_loss = 0;
  double productive_seconds = 0;  // sum of the times of steps done, each once
  int64_t tokens = 0;             // trained on, each step once
  // Steps below max_step whose records are still to come, from an agent that was away.
  std::set<int64_t> missing_steps;
  bool rank0_finished = false;    // this generation's rank 0 said FINISHED
  int64_t finished_at_step = 0;   // and at which step
  int restarts_without_step = 0;  // since the last step that was new
  int checkpoint_failures = 0;    // in a row, up to the newest
  std::string checkpoint_error;
  std::string first_checkpoint_error;  // of those, as far as known; empty: the newest was written
  // When it last failed on each device, of late: on several, it is the cause itself.
  std::map<std::pair<WorkerId, std::string>, absl::Duration> failed_on;
  absl::Duration not_before = -absl::InfiniteDuration();  // retry_at on the monotonic clock
  absl::Duration queued_since = absl::ZeroDuration();
  absl::Duration gather_until = -absl::InfiniteDuration();  // -Infinite: not gathering
  absl::Duration membership_since = absl::ZeroDuration();   // for grow_cooldown
  absl::Duration progress_since = absl::ZeroDuration();     // when a member last got ahead
  absl::Duration stop_by = absl::InfiniteDuration();        // members still there then are killed
  std::optional<absl::Duration> all_silent_since;
  // A loss being repaired: its cause and when it was noticed.
  std::string recovery_cause;  // empty: none
  absl::Duration recovery_since = absl::ZeroDuration();

  bool final() const { return IsFinal(state); }
  // Trainers of this generation should be running or stopping.
  bool active() const {
    return state == JobState::kStarting || state == JobState::kRunning ||
           state == JobState::kResizing || state == JobState::kPausing;
  }
};

// What is served under a name.
struct Deployment {
  std::string name;
  JobId job;                    // empty: `path`
  std::optional<int64_t> step;  // of `job`; none: the newest
  std::string path;
  int replicas = 1;
  int prompt_style = 0;  // opaque: PromptStyle
  // Opaque: what the weights are loaded with, an adapter's file or another RoPE scaling. Empty:
  // nothing. Weights loaded with something are another version.
  std::string load_options;
  absl::Time created_at = absl::InfinitePast();
};

enum class DeploymentState { kWaiting = 1, kLoading = 2, kServing = 3, kDegraded = 4 };

// What a deployment should serve now; an empty path: nothing yet.
struct DesiredWeights {
  std::string path;
  std::string version;
  friend bool operator==(const DesiredWeights&, const DesiredWeights&) = default;
};

// An inference worker's last report and what it was given to serve.
struct InferenceNode {
  WorkerId id;
  std::string name;
  std::string address;
  std::string deployment;  // what it serves now
  std::string weights_version;
  bool ready = false;
  bool draining = false;
  std::string load_error;
  std::string load_error_version;

  std::string assigned;         // deployment it should serve; empty: nothing
  std::string told_version;     // the weights version it was last told of
  std::string told;             // the whole order, to see a change
  int64_t desired_version = 0;  // another one with each other order; as Worker's
};

// A mutation that was done, by the caller's name for it.
struct RequestRecord {
  std::string id;
  std::string digest;  // of method and body
  JobId job;           // the job submitted; empty for other methods
  int64_t sequence = 0;
};

}  // namespace mindforge::sched
