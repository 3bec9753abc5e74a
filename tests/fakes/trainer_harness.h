// A fake agent for real mindforge-trainer processes: speaks the socketpair's protocol, keeps all
// that each rank reports, and waits on conditions over it.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/frame.h"
#include "common/mutex.h"
#include "common/subprocess.h"
#include "common/unique_fd.h"
#include "mindforge/v1/trainer.pb.h"

namespace mindforge {

// What one rank has reported so far.
struct TrainerReports {
  std::vector<v1::TrainerStatus> states;
  std::vector<v1::ProgressRecord> steps;
  std::vector<v1::CheckpointWritten> checkpoints;
  std::vector<v1::CheckpointCorrupt> corrupt;
  std::vector<v1::LogLine> logs;
  std::optional<v1::TrainerFailure> failure;
  bool ended = false;  // its end of the link is closed

  bool Reached(v1::TrainerPhase phase) const;
};

// One trainer process. Thread-safe. The destructor kills it.
class TrainerProcess {
 public:
  // Starts $MINDFORGE_BIN/mindforge-trainer and gives it `start`. `store_fd` >= 0 is borrowed.
  static absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const v1::StartTraining& start,
                                                               int store_fd);
  ~TrainerProcess();

  void Send(const v1::TrainerOrder& order);
  void Stop(int64_t sequence);
  void Kill(int signal) { process_->Kill(signal); }
  // As if the agent had died.
  void CloseLink();

  // False when the time ran out.
  bool WaitUntil(const std::function<bool(const TrainerReports&)>& condition,
                 absl::Duration timeout = absl::Seconds(60));
  // Waits for the process to end; all its reports are in then.
  ExitStatus Wait(absl::Duration timeout = absl::Seconds(60));
  TrainerReports reports();

 private:
  TrainerProcess(std::unique_ptr<Subprocess> process, UniqueFd link);
  void Read();

  const std::unique_ptr<Subprocess> process_;
  const UniqueFd link_;
  FrameReader reader_;
  FrameWriter writer_;
  Mutex mutex_;
  CondVar changed_;
  TrainerReports reports_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// All ranks of one generation on this machine.
class TrainerGroup {
 public:
  using Change = std::function<void(int rank, v1::StartTraining& start)>;
  // `order` without rank, world size and socket; each rank gets its own, and what `change` does.
  TrainerGroup(const v1::StartTraining& order, int world_size, const Change& change = {});

  int world_size() const { return static_cast<int>(ranks_.size()); }
  TrainerProcess& rank(int rank) { return *ranks_.at(static_cast<size_t>(rank)); }
  // Every rank's exit, in order.
  std::vector<ExitStatus> WaitAll();

 private:
  std::vector<std::unique_ptr<TrainerProcess>> ranks_;
};

}  // namespace mindforge
