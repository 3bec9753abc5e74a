// One version of the weights with the sequences that run on it: builds each step's batch, computes
// it and hands every sequence its logits. It does not know queues, locks or other versions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/infer/engine.h"
#include "worker/infer/model_runner.h"
#include "worker/infer/sequence.h"

namespace mindforge {

// What one step computed.
struct StepFigures {
  int64_t rows = 0;
  int64_t prefill_tokens = 0;
  int64_t generated_tokens = 0;
  absl::Status status;  // the runner's
};

// Batcher thread only.
class LiveModel {
 public:
  LiveModel(std::unique_ptr<ModelRunner> runner, std::string weights_version,
            const EngineOptions& options);

  EngineModel Describe() const;
  int64_t free_slots() const { return static_cast<int64_t>(free_slots_.size()); }
  int64_t live() const { return static_cast<int64_t>(sequences_.size()); }
  int64_t kv_tokens_used() const;
  int64_t kv_tokens_total() const;

  // REQUIRES: a free slot, and a request that fits this model.
  void Admit(std::unique_ptr<Sequence> sequence);

  // Ends the sequences for which `end` has an answer and frees their slots. Returns their ids.
  using EndOf = std::function<std::optional<SequenceEnd>(const Sequence&)>;
  std::vector<uint64_t> EndWhere(const EndOf& end);

  // Computes one batch; does nothing when no sequence is live. Ids of sequences that ended are
  // appended to `ended`. When the runner fails every sequence of the batch ends with its error.
  StepFigures Step(std::vector<uint64_t>& ended);

 private:
  std::vector<Sequence*> BuildBatch();

  const std::unique_ptr<ModelRunner> runner_;
  const std::string weights_version_;
  const int64_t prefill_chunk_tokens_;
  const int64_t prefill_alone_tokens_;
  std::vector<int64_t> free_slots_;                   // the next one last
  std::vector<std::unique_ptr<Sequence>> sequences_;  // in order of admission
  StepBatch batch_;
  std::vector<float> logits_;
};

}  // namespace mindforge
