// The engine's one thread and what it shares with callers: the bounded queue, cancellations,
// versions waiting to be taken over, and the figures.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "worker/infer/engine.h"
#include "worker/infer/live_model.h"
#include "worker/infer/sequence.h"

namespace mindforge {

class Engine::Batcher {
 public:
  Batcher(std::unique_ptr<ModelRunner> runner, std::string weights_version, EngineOptions options,
          EngineObserver* observer);
  ~Batcher();

  absl::StatusOr<RequestHandle> Submit(GenerationRequest request,
                                       std::shared_ptr<GenerationSink> sink);
  absl::Status CheckRoom() const;
  void Cancel(RequestHandle handle);
  absl::Status SwapModel(std::unique_ptr<ModelRunner> runner, std::string weights_version);
  EngineModel Model() const;
  EngineStats Stats() const;
  absl::Status Drain(absl::Duration timeout);
  void Stop();

 private:
  struct CancelMark {
    absl::Duration at;
    int64_t steps = 0;  // begun by then
  };
  using CancelMarks = std::unordered_map<uint64_t, CancelMark>;
  // Higher priority first, then order of arrival.
  using Queue = std::map<std::pair<int64_t, uint64_t>, std::unique_ptr<Sequence>>;

  absl::Status CheckRoomLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();
  // Waits for something to do. False: stop.
  bool WaitForWork();
  void TakeOverModels();
  void EndCancelledAndExpired();
  void EndQueued(const CancelMarks& marks);
  void Admit();
  void StepAll();
  void NoteOutcome(const StepFigures& step);
  void RetireModels();
  void PublishStats();
  void EndEverything();
  void Forget(const std::vector<uint64_t>& ids);

  const RealClock real_clock_;
  const EngineOptions options_;
  const Clock& clock_;
  EngineObserver* const observer_;

  mutable Mutex mutex_;
  CondVar work_;  // something to do for the batcher thread
  CondVar idle_;  // active_ became empty
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  Queue queue_ ABSL_GUARDED_BY(mutex_);
  std::unordered_set<uint64_t> active_ ABSL_GUARDED_BY(mutex_);  // accepted and not ended
  CancelMarks cancelled_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<LiveModel>> incoming_ ABSL_GUARDED_BY(mutex_);
  int64_t versions_ ABSL_GUARDED_BY(mutex_) = 1;  // in memory, incoming_ included
  EngineModel model_ ABSL_GUARDED_BY(mutex_);     // the newest
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);

  // Batcher thread only. The last one takes new requests.
  std::vector<std::unique_ptr<LiveModel>> models_;
  EngineStats figures_;
  int64_t failed_in_a_row_ = 0;  // steps

  Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);  // runs Run(); so that no caller waits for a
                                                     // step. Last: it uses all of the above.
};

}  // namespace mindforge
