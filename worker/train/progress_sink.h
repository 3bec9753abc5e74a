// What leaves training (ProgressSink) and what reaches it while it runs (TrainControl). Training
// knows neither agent nor wire format; the program around it implements both.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/logging.h"
#include "common/net.h"
#include "worker/formats/checkpoint.h"

namespace mindforge {

enum class TrainPhase { kWarmingUp, kJoining, kTraining, kFinished, kStopped };

struct TrainState {
  TrainPhase phase = TrainPhase::kWarmingUp;
  int64_t step = 0;  // the last applied
  int64_t total_steps = 0;
  int64_t resumed_from = -1;  // -1: not known yet
  std::string dataset_digest;
  std::string detail;         // for long phases: "tokenizing 40%, 31.5 MB/s"
  int64_t skipped_lines = 0;  // malformed lines that were left out, once the data is open
  int64_t activity = 0;       // grows with each microbatch: what tells a long step from a hang
};

// One committed optimizer step.
struct StepRecord {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  int64_t tokens = 0;  // unmasked targets of all ranks
  double tokens_per_second = 0;
  double step_seconds = 0;
  std::map<std::string, double> phase_seconds;  // data, compute, exchange, update, vote
  absl::Time finished_at;
  double mfu = 0;  // 0: the device's ceiling is not known
  int64_t device_memory_bytes = 0;
  double checkpoint_stall_seconds = 0;
  std::vector<int64_t> sequences_by_rank;
  std::optional<double> validation_loss;  // of the held-out rows after this step
  std::optional<double> loss_scale;       // of this step; float16 alone
  int64_t skipped_steps = 0;              // so far in the job, this one included
  bool skipped = false;                   // this step changed nothing
};

// A checkpoint that is durable.
struct CheckpointReport {
  CheckpointFolder folder;
  int64_t size_bytes = 0;
  double loss = 0;
  std::optional<double> validation_loss;
  std::string manifest_digest;
  double write_seconds = 0;
  bool final = false;
};

// Thread-safe: the checkpoint's writer calls it too.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void OnState(const TrainState& state) = 0;
  virtual void OnStep(const StepRecord& record) = 0;  // rank 0 alone
  virtual void OnLog(LogSeverity severity, std::string_view text) = 0;
  virtual void OnCheckpoint(const CheckpointReport& report) = 0;
  // One that was due could not be written; training goes on.
  virtual void OnCheckpointFailed(int64_t step, std::string_view detail) = 0;
  virtual void OnCorruptCheckpoint(const CheckpointFolder& folder, std::string_view detail) = 0;
};

// Orders that reach training while it runs. Thread-safe.
class TrainControl {
 public:
  virtual ~TrainControl() = default;
  // Where the group's store listens. UNAVAILABLE with reason PEER_LOST when it is not known in
  // time.
  virtual absl::StatusOr<HostPort> WaitForRendezvous(absl::Duration timeout) = 0;
  // The newest order to stop, 0: none.
  virtual int64_t StopSequence() const = 0;
};

}  // namespace mindforge
