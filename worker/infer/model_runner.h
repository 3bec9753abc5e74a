// The seam between the batcher and what computes logits: a model with preallocated KV slots. It
// knows nothing of requests, sampling or time. A batch may mix prefills and decodes; by promise P9
// a token's keys, values and logits have the same bits however its sequence was cut into calls and
// whatever else is in the batch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace mindforge {

// A run of consecutive tokens of one sequence.
struct StepRow {
  int64_t slot = 0;            // in [0, slots)
  int64_t start_position = 0;  // of tokens[0]; everything before it is in the slot already
  absl::Span<const int32_t> tokens;
  int64_t logits = 0;  // the last `logits` positions of `tokens` need logits
};

// What one call computes. Slots are distinct.
struct StepBatch {
  std::vector<StepRow> rows;

  int64_t TokenCount() const {
    int64_t count = 0;
    for (const StepRow& row : rows) count += static_cast<int64_t>(row.tokens.size());
    return count;
  }
  int64_t LogitsCount() const {
    int64_t count = 0;
    for (const StepRow& row : rows) count += row.logits;
    return count;
  }
};

// A model with KV memory for `slots` sequences of up to `max_context` tokens.
// Thread-compatible: one thread at a time calls Forward; the const getters are safe from any
// thread.
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_context() const = 0;
  virtual int64_t slots() const = 0;
  // The most tokens (rows summed) that one Forward takes.
  virtual int64_t max_batch_tokens() const = 0;
  // Equal ids on equal weights give equal bits: device kind, dtype and kernel build.
  virtual const std::string& numerics_id() const = 0;

  // Appends the tokens' keys and values to their slots and writes logits [LogitsCount(),
  // vocab_size] in row order, float32. A row with start_position p overwrites what the slot held
  // from p on, so a slot needs no reset between sequences. INTERNAL or RESOURCE_EXHAUSTED: the
  // device failed; the slots in the batch hold nothing useful.
  virtual absl::Status Forward(const StepBatch& batch, float* logits) = 0;
};

}  // namespace mindforge
