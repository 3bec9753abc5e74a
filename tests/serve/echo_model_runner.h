// A model whose output a test writes into the prompt: after the prompt [n, s1 … sn] come s1 … sn,
// over and over. Steps can be held and failed through FakeModelControl.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/fakes/fake_model_runner.h"

namespace mindforge {

class EchoModelRunner : public FakeModelRunner {
 public:
  EchoModelRunner(FakeModelOptions options, FakeModelControl* control)
      : FakeModelRunner(options, control), vocab_(options.vocab_size), held_(options.slots) {}

  // The prompt that makes the model say `script`.
  static std::vector<int32_t> PromptFor(const std::vector<int32_t>& script) {
    std::vector<int32_t> prompt = {static_cast<int32_t>(script.size())};
    prompt.insert(prompt.end(), script.begin(), script.end());
    return prompt;
  }

  absl::Status Forward(const StepBatch& batch, float* logits) override {
    if (absl::Status status = FakeModelRunner::Forward(batch, logits); !status.ok()) return status;
    for (const StepRow& row : batch.rows) {
      std::vector<int32_t>& held = held_.at(row.slot);
      held.resize(row.start_position);
      const auto count = static_cast<int64_t>(row.tokens.size());
      for (int64_t i = 0; i < count; ++i) {
        held.push_back(row.tokens[i]);
        if (i < count - row.logits) continue;
        std::fill_n(logits, vocab_, 0.0f);
        logits[Next(held)] = 10.0f;
        logits += vocab_;
      }
    }
    return absl::OkStatus();
  }

 private:
  static int32_t Next(const std::vector<int32_t>& held) {
    const auto size = static_cast<int64_t>(held.size());
    const int64_t n = std::clamp<int64_t>(held[0], 1, std::max<int64_t>(size - 1, 1));
    return held[std::min(1 + (size - 1 - n) % n, size - 1)];
  }

  const int64_t vocab_;
  std::vector<std::vector<int32_t>> held_;
};

}  // namespace mindforge
