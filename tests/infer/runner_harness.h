// Drives a ModelRunner through a sequence in pieces and collects every position's logits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/check.h"
#include "worker/infer/model_runner.h"

namespace mindforge {

// Logits [tokens, vocab] of a sequence fed to `slot` in pieces of `chunk` tokens.
inline std::vector<float> RunInChunks(ModelRunner& runner, const std::vector<int32_t>& tokens,
                                      int64_t chunk, int64_t slot = 0) {
  const auto total = static_cast<int64_t>(tokens.size());
  std::vector<float> logits(total * runner.vocab_size());
  for (int64_t at = 0; at < total; at += chunk) {
    const int64_t count = std::min(chunk, total - at);
    StepBatch batch;
    batch.rows.push_back({.slot = slot,
                          .start_position = at,
                          .tokens = absl::MakeConstSpan(tokens).subspan(at, count),
                          .logits = count});
    MF_CHECK_OK(runner.Forward(batch, &logits[at * runner.vocab_size()]));
  }
  return logits;
}

inline float LargestDifference(const std::vector<float>& a, const float* b) {
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

}  // namespace mindforge
