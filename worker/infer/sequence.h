// One accepted request on its way: its tokens, what of them the KV slot holds, its sampler and its
// times. It turns logits into the sink's events; it does not know the batch around it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "worker/infer/engine.h"
#include "worker/infer/model_runner.h"
#include "worker/infer/sampler.h"

namespace mindforge {

// Why a sequence is over.
struct SequenceEnd {
  FinishReason reason = FinishReason::kLength;
  absl::Status status;
};

// Batcher thread only, once admitted. Borrows clock and observer (may be null).
class Sequence {
 public:
  Sequence(uint64_t id, GenerationRequest request, std::shared_ptr<GenerationSink> sink,
           const Clock& clock, EngineObserver* observer);

  // Takes a slot of `model`.
  void Start(const ModelRunner& model, const std::string& weights_version, int64_t slot);

  // The next tokens to compute, at most `budget` of them.
  StepRow NextRow(int64_t budget) const;
  // `row` was computed; logits are its row.logits rows. The end, when this was it.
  std::optional<SequenceEnd> Take(const StepRow& row, const float* logits);
  // The last call; tells the sink and the observer.
  void Finish(const SequenceEnd& end);

  uint64_t id() const { return id_; }
  int64_t slot() const { return slot_; }
  absl::Time deadline() const { return request_.stopping.deadline; }
  const GenerationRequest& request() const { return request_; }
  int64_t computed() const { return computed_; }
  int64_t pending() const { return static_cast<int64_t>(tokens_.size()) - computed_; }
  bool decoding() const { return generated_ > 0; }
  int64_t generated() const { return generated_; }

 private:
  std::optional<SequenceEnd> AtLimit() const;
  std::optional<SequenceEnd> Draw(const float* logits);
  std::optional<SequenceEnd> EndedBy(int32_t token) const;
  void ScorePrompt(const StepRow& row, const float* logits);
  int64_t OutputCount() const;

  const uint64_t id_;
  GenerationRequest request_;
  const std::shared_ptr<GenerationSink> sink_;
  const Clock& clock_;
  EngineObserver* const observer_;

  int64_t slot_ = -1;
  int64_t vocab_size_ = 0;
  int64_t max_context_ = 0;
  std::optional<Sampler> sampler_;
  std::vector<int32_t> tokens_;  // prompt, resumed, generated
  int64_t computed_ = 0;         // of tokens_, in the slot
  int64_t generated_ = 0;
  std::vector<PromptTokenInfo> prompt_scores_;

  const absl::Duration submitted_;  // monotonic, as all below
  absl::Duration admitted_;
  absl::Duration first_token_;
  absl::Duration last_token_;
};

}  // namespace mindforge
