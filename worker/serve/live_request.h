// A request being generated: its sequences in the engine, and the events that wait for its reader.
// It does not know gRPC calls; a stream or a unary call reads it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "mindforge/v1/inference_service.pb.h"
#include "worker/infer/engine.h"
#include "worker/serve/courier.h"
#include "worker/serve/generation_plan.h"
#include "worker/serve/sequence_output.h"
#include "worker/serve/served_model.h"

namespace mindforge {

struct GenerationLimits {
  // Events waiting for a slow reader: beyond `merge_above` deltas of a sequence are joined, and
  // when more than `max_buffered_bytes` wait behind the first the request is cancelled. The first
  // is left out: a reader that keeps up has one to take, however large.
  size_t merge_above = 32;
  size_t max_buffered_bytes = 1 << 20;
};

// The engine's refusals with the reasons that callers and the gateway go by; OK stays.
absl::Status EngineRefusal(const absl::Status& status);

// Thread-safe. Owned by shared_ptr: the engine's sinks and the courier hold it as long as they
// need.
class LiveRequest : public Parcel, public std::enable_shared_from_this<LiveRequest> {
 public:
  struct Env {
    std::shared_ptr<const ServedModel> model;
    std::shared_ptr<Engine> engine;
    const Clock* clock = nullptr;
    Courier* courier = nullptr;
    std::string worker_id;
    GenerationLimits limits;
    // Says why a request that the engine cancelled on its own was: it drains or stops.
    std::function<absl::Status()> why_stopped;
  };

  LiveRequest(Env env, GenerationPlan plan);

  // Queues all sequences. `ready` is then called on the courier's thread whenever there is
  // something to read, until Detach. On an error nothing was started: RESOURCE_EXHAUSTED (reason
  // QUEUE_FULL), UNAVAILABLE (DRAINING), INVALID_ARGUMENT; `ready` is then never called.
  absl::Status Start(std::function<void()> ready);

  enum class Read { kEvent, kNothingYet, kEnd };
  // The next event, or why there is none. After kEnd: `end` is how the call ends.
  Read Next(v1::GenerateResponse* event, absl::Status* end);

  // Ends all sequences; the end is CANCELLED unless something else came first.
  void Cancel();
  // The reader is gone: `ready` is not running and never runs again.
  void Detach();

  void Carry() override;

 private:
  class Sink;
  struct Waiting {
    v1::GenerateResponse event;
    size_t bytes = 0;  // of the deltas it was joined from, where it was
  };

  absl::Status SubmitAll();
  bool Token(int32_t index, const TokenInfo& token);
  void Started(const StartedInfo& info);
  void PromptLogprobs(const std::vector<PromptTokenInfo>& tokens);
  void Finished(int32_t index, const FinishedInfo& info);
  // A resumed sequence that was over already. Nothing reaches the engine.
  bool FinishedBefore();

  void PushLocked(v1::GenerateResponse event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MergeLocked(const Waiting& next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t BytesBehindTheFirstLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first end counts; one that is neither the caller's doing nor its fault is logged.
  void EndLocked(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EndOf(const FinishedInfo& info) const;
  v1::GenerationFinished FinishedEvent(int32_t index, const FinishedInfo& info) const;
  // Wakes the reader. Call without the mutex.
  void Notify();
  void CancelSequences();

  const Env env_;
  const GenerationPlan plan_;
  const absl::Duration started_at_;  // monotonic

  Mutex mutex_;
  std::vector<std::unique_ptr<SequenceOutput>> outputs_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestHandle> handles_ ABSL_GUARDED_BY(mutex_);
  v1::GenerationStarted opening_ ABSL_GUARDED_BY(mutex_);
  bool opening_known_ ABSL_GUARDED_BY(mutex_) = false;
  bool opened_ ABSL_GUARDED_BY(mutex_) = false;        // `started` is among the events or read
  std::deque<Waiting> early_ ABSL_GUARDED_BY(mutex_);  // before it
  std::deque<Waiting> events_ ABSL_GUARDED_BY(mutex_);
  size_t buffered_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // in both
  size_t open_sequences_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // no event comes after those in the queue
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
  bool posted_ ABSL_GUARDED_BY(mutex_) = false;

  Mutex ready_mutex_;  // held while `ready_` runs, so that Detach can wait for it
  std::function<void()> ready_ ABSL_GUARDED_BY(ready_mutex_);
};

}  // namespace mindforge
