// Keeps what training reports. Thread-safe.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "worker/train/progress_sink.h"

namespace mindforge {

class RecordingProgressSink : public ProgressSink {
 public:
  void OnState(const TrainState& state) override {
    MutexLock lock(mutex_);
    states_.push_back(state);
  }
  void OnStep(const StepRecord& record) override {
    MutexLock lock(mutex_);
    steps_.push_back(record);
  }
  void OnLog(LogSeverity, std::string_view text) override {
    MutexLock lock(mutex_);
    logs_.emplace_back(text);
  }
  void OnCheckpoint(const CheckpointReport& report) override {
    MutexLock lock(mutex_);
    checkpoints_.push_back(report);
  }
  void OnCheckpointFailed(int64_t step, std::string_view detail) override {
    MutexLock lock(mutex_);
    failed_.emplace_back(step, detail);
  }
  void OnCorruptCheckpoint(const CheckpointFolder& folder, std::string_view) override {
    MutexLock lock(mutex_);
    corrupt_.push_back(folder);
  }

  std::vector<TrainState> states() { return Copy(states_); }
  std::vector<StepRecord> steps() { return Copy(steps_); }
  std::vector<std::string> logs() { return Copy(logs_); }
  std::vector<CheckpointReport> checkpoints() { return Copy(checkpoints_); }
  // Steps whose checkpoints could not be written, and why.
  std::vector<std::pair<int64_t, std::string>> failed() { return Copy(failed_); }
  std::vector<CheckpointFolder> corrupt() { return Copy(corrupt_); }

 private:
  template <typename T>
  std::vector<T> Copy(const std::vector<T>& from) {
    MutexLock lock(mutex_);
    return from;
  }

  Mutex mutex_;
  std::vector<TrainState> states_;
  std::vector<StepRecord> steps_;
  std::vector<std::string> logs_;
  std::vector<CheckpointReport> checkpoints_;
  std::vector<std::pair<int64_t, std::string>> failed_;
  std::vector<CheckpointFolder> corrupt_;
};

}  // namespace mindforge
