// Continuous-batching generation: token ids in, token ids out. One batcher thread admits requests
// from a bounded priority queue, prefills prompts in chunks beside the decodes of live rows,
// samples and hands each token to the request's sink. It knows no text, tokenizer, gRPC or metric
// names.
//
// Surprising choice: weights are swapped by running both versions side by side until the last
// request of the old one has ended, so a swap costs memory for two and fails nobody.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/infer/model_runner.h"
#include "worker/infer/sampling.h"

namespace mindforge {

struct StoppingParams {
  int64_t max_new_tokens = 8192;  // counted with `resumed`; the context's end ends with kLength too
  int64_t min_new_tokens = 0;     // until then end-of-sequence and stop ids cannot be drawn
  std::vector<int32_t> eos_token_ids;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;  // eos_token_ids do not end the request
  absl::Time deadline = absl::InfiniteFuture();
};

// One sequence to generate.
struct GenerationRequest {
  std::vector<int32_t> prompt;
  // Tokens that an earlier attempt already delivered: continued after, counted as output by
  // penalties and limits, not delivered again.
  std::vector<int32_t> resumed;
  SamplingParams sampling;
  StoppingParams stopping;
  bool logprobs = false;         // of the token drawn, from the raw logits
  int64_t top_logprobs = 0;      // besides, of the most probable ids; at most kMaxTopLogprobs
  bool prompt_logprobs = false;  // of every prompt token but the first
  int64_t priority = 0;          // higher is admitted first; equal ones in order of arrival
};

inline constexpr int64_t kMaxTopLogprobs = 64;

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct StartedInfo {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // prompt tokens whose keys and values were at hand
  std::string weights_version;
  std::string numerics_id;
};

struct PromptTokenInfo {
  TokenLogprob token;
  std::vector<TokenLogprob> top;
};

struct TokenInfo {
  int32_t token = 0;
  int64_t index = 0;              // among the output, `resumed` included
  bool ends = false;              // an end-of-sequence or stop id: not part of the text
  float logprob = 0;              // when asked for
  std::vector<TokenLogprob> top;  // most probable first
};

enum class FinishReason { kLength, kEos, kStopToken, kStop, kMaxTime, kCancelled, kFailed };

const char* FinishReasonName(FinishReason reason);

struct FinishedInfo {
  FinishReason reason = FinishReason::kLength;
  absl::Status status;  // not OK exactly when reason is kFailed
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;  // by this request: without `resumed`
  absl::Duration queue_time;     // from Submit to a slot
  absl::Duration prefill_time;   // from a slot to the first token
  absl::Duration decode_time;    // from the first token to the last
};

// What a request's results are handed to. All calls come from the batcher thread, without any lock
// held: they must return at once (hand over, never wait), since every stream waits behind them.
// Order: OnStarted, OnPromptLogprobs if asked for, OnToken …, OnFinished (exactly once; alone when
// the request ended in the queue). The engine drops its reference after OnFinished.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnStarted(const StartedInfo& info) = 0;
  virtual void OnPromptLogprobs(const std::vector<PromptTokenInfo>& tokens) {}
  // False ends the request with kStop (a stop string was found).
  virtual bool OnToken(const TokenInfo& token) = 0;
  virtual void OnFinished(const FinishedInfo& info) = 0;
};

// Figures for metrics, called from the batcher thread like a sink.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(int64_t rows, int64_t prefill_tokens, absl::Duration took) {}
  virtual void OnAdmitted(absl::Duration queue_time) {}
  virtual void OnFirstToken(absl::Duration since_submit) {}
  virtual void OnInterToken(absl::Duration since_last) {}
  virtual void OnRequestFinished(const FinishedInfo& info) {}
  // From Cancel to the moment the slot could be given to another, and in forward passes begun
  // since.
  virtual void OnCancelledSlotFree(absl::Duration since_cancel, int64_t steps) {}
};

struct EngineOptions {
  int64_t max_queue = 256;            // waiting requests; more are refused
  int64_t prefill_chunk_tokens = 64;  // prompt tokens per step while streams are live: higher gives
                                      // a faster first token and longer pauses between tokens
  int64_t prefill_alone_tokens = 256;  // the same when nothing else is live
  int64_t max_retiring_versions = 2;   // older weights kept for running requests
  const Clock* clock = nullptr;        // null: the machine's; else outlives the engine
  // So many steps in a row have failed, the last with this status: the device will not come back by
  // itself. Called once, like a sink.
  int64_t max_failed_steps = 3;
  std::function<void(const absl::Status&)> on_failing;
};

struct RequestHandle {
  uint64_t id = 0;
};

// What new requests are served with.
struct EngineModel {
  std::string weights_version;
  std::string numerics_id;
  int64_t vocab_size = 0;
  int64_t max_context = 0;
  int64_t slots = 0;
};

struct EngineStats {
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  int64_t retiring_versions = 0;
  int64_t kv_tokens_used = 0;  // over all versions in memory
  int64_t kv_tokens_total = 0;
  int64_t prompt_tokens = 0;  // computed since the start
  int64_t generated_tokens = 0;
  int64_t steps = 0;
  bool draining = false;
};

// The generation engine of one device. Thread-safe. `observer` may be null, else outlives it.
class Engine {
 public:
  Engine(std::unique_ptr<ModelRunner> runner, std::string weights_version, EngineOptions options,
         EngineObserver* observer);
  ~Engine();  // Stop()

  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Queues a request. OK: the sink's OnFinished will be called, whatever happens.
  // INVALID_ARGUMENT: an empty prompt, one that fills the context, an id outside the vocabulary, or
  // a sampling or stopping value out of range. RESOURCE_EXHAUSTED: the queue is full. UNAVAILABLE:
  // draining or stopped. On an error the sink is never called.
  absl::StatusOr<RequestHandle> Submit(GenerationRequest request,
                                       std::shared_ptr<GenerationSink> sink);

  // Whether a request would find room at this moment: OK, or RESOURCE_EXHAUSTED or UNAVAILABLE as
  // Submit. For who would rather know before the work of making one.
  absl::Status CheckRoom() const;

  // Ends a request with kCancelled; its slot is free before the next step. Does nothing when it has
  // already ended.
  void Cancel(RequestHandle handle);

  // Serves requests admitted from now on with `runner`; running ones finish on theirs.
  // RESOURCE_EXHAUSTED: too many older versions still have running requests; try again later.
  // UNAVAILABLE: stopped. On an error the old weights go on serving.
  absl::Status SwapModel(std::unique_ptr<ModelRunner> runner, std::string weights_version);

  EngineModel Model() const;
  EngineStats Stats() const;

  // Refuses new requests and waits for those accepted. DEADLINE_EXCEEDED: some were still running
  // after `timeout`; they go on.
  absl::Status Drain(absl::Duration timeout);

  // Cancels everything, waits for the batcher. Idempotent.
  void Stop();

 private:
  class Batcher;
  std::unique_ptr<Batcher> batcher_;
};

}  // namespace mindforge
