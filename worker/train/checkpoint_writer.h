// Writes checkpoints off the training thread. The state changes in the optimizer's update alone, so
// the copy runs under the next forward and backward and only the next update waits for it. One
// snapshot is held: when a checkpoint is due while the one before is still being written, training
// waits for the disk (never skips a step that was asked for) and the wait is counted as stall.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "worker/formats/checkpoint.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"
#include "worker/train/progress_sink.h"

namespace mindforge {

struct CheckpointWriterOptions {
  std::string dir;                               // the job's own
  std::map<std::string, std::string> tokenizer;  // files of each checkpoint: text by name
  std::string prompt_style = kCompletionStyle;   // see CheckpointContents
};

// Owns one thread, since a write to disk may block for seconds; joined in the destructor, which
// finishes what was started. Borrows model, optimizer and sink, which must outlive it. Start,
// WaitForCopy and Finish are for the training thread.
class CheckpointWriter {
 public:
  CheckpointWriter(CheckpointWriterOptions options, const Minimind& model, const AdamW& optimizer,
                   const Clock& clock, ProgressSink& sink);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Begins to copy weights and moments, then writes and reports them. Waits for the write before
  // it; returns for how long. REQUIRES: the device is done with the last update.
  absl::Duration Start(CheckpointState state, bool final);

  // True while a write is under way, for which Start would wait.
  bool Busy();

  // Waits until weights and moments may change again; returns for how long.
  absl::Duration WaitForCopy();

  // Waits for the write under way. The error of the last one, if it failed: WORKER_UNFIT
  // (failure.h) when it was the storage's.
  absl::Status Finish();

  // The newest step whose checkpoint is durable; -1: none of this writer's.
  int64_t written_step() const;

 private:
  struct Request {
    CheckpointState state;
    bool final = false;
  };

  void Run();
  void Copy();
  absl::Status Write(const Request& request);
  absl::Duration WaitUntil(const bool& flag) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CheckpointWriterOptions options_;
  const Minimind& model_;
  const AdamW& optimizer_;
  const Clock& clock_;
  ProgressSink& sink_;

  // Host copies of weights and moments, pinned where the model is on a GPU. Written by the thread
  // between Start and copied_, read by it until idle_.
  at::Tensor weights_, first_moment_, second_moment_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::optional<Request> request_ ABSL_GUARDED_BY(mutex_);
  bool copied_ ABSL_GUARDED_BY(mutex_) = true;
  bool idle_ ABSL_GUARDED_BY(mutex_) = true;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status last_ ABSL_GUARDED_BY(mutex_);
  int64_t written_step_ ABSL_GUARDED_BY(mutex_) = -1;

  std::thread thread_;
};

}  // namespace mindforge
