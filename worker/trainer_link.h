// The trainer's end of the socketpair to its agent: orders come in on a thread of their own, so
// that one arrives while training computes, and reports go out. It does not know how training
// works. When the agent is gone the process ends at once: a trainer without an agent is an orphan.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/frame.h"
#include "common/mutex.h"
#include "mindforge/v1/trainer.pb.h"
#include "worker/train/progress_sink.h"

namespace mindforge {

// Exit status of a trainer whose agent went away.
inline constexpr int kExitAgentGone = 3;

// Thread-safe, apart from ReadStart and StartReading. Borrows descriptor and clock. Its thread
// waits for orders until the process ends: it is not meant to be destroyed before.
class AgentLink : public TrainControl, public ProgressSink {
 public:
  AgentLink(int fd, const Clock& clock);
  ~AgentLink() override;

  // The first order. UNAVAILABLE when it is not StartTraining or does not come in time.
  absl::StatusOr<v1::StartTraining> ReadStart(absl::Duration timeout);
  // Takes every later order. REQUIRES: ReadStart was OK.
  void StartReading();

  void SendFailure(const v1::TrainerFailure& failure);

  absl::StatusOr<HostPort> WaitForRendezvous(absl::Duration timeout) override;
  int64_t StopSequence() const override;

  void OnState(const TrainState& state) override;
  void OnStep(const StepRecord& record) override;
  void OnLog(LogSeverity severity, std::string_view text) override;
  void OnCheckpoint(const CheckpointReport& report) override;
  void OnCheckpointFailed(int64_t step, std::string_view detail) override;
  void OnCorruptCheckpoint(const CheckpointFolder& folder, std::string_view detail) override;

 private:
  void Read();
  void Take(const v1::TrainerOrder& order);
  void Send(const v1::TrainerReport& report);

  const Clock& clock_;
  FrameReader reader_;
  FrameWriter writer_;
  int64_t generation_ = 0;  // set before the thread starts
  int32_t rank_ = 0;
  int32_t world_size_ = 1;

  mutable Mutex mutex_;
  CondVar changed_;
  std::string rendezvous_ ABSL_GUARDED_BY(mutex_);
  int64_t stop_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  TrainState state_ ABSL_GUARDED_BY(mutex_);  // the last one sent

  std::thread thread_;
};

}  // namespace mindforge
