// Which slot each token's choice of an expert goes to: slots are sorted by expert, within an expert
// by token, so that each expert's work is one dense product. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/formats/model_config.h"

namespace mindforge {

// One layer's routing of one microbatch. The vectors keep their memory.
struct ExpertSlots {
  // Filled by the router, a token's choices side by side.
  std::vector<float> scores;    // [tokens, experts]
  std::vector<int32_t> chosen;  // [tokens, top_k]
  std::vector<float> weights;   // [tokens, top_k]
  // Filled by Sort.
  std::vector<int64_t> starts;        // [experts + 1]: an expert's first slot
  std::vector<int64_t> used;          // [experts]: its slots in use, the rest is filling
  std::vector<int32_t> slots;         // [tokens, top_k]
  std::vector<int32_t> slot_tokens;   // [slots], -1: filling
  std::vector<int32_t> slot_experts;  // [slots]
  std::vector<float> slot_weights;    // [slots], 0: filling
  // Filled by SetBalance.
  std::vector<float> balance;  // [rows, experts]: d loss / d score

  int64_t size() const { return starts.back(); }

  void Resize(int64_t tokens, int64_t experts, int64_t top_k);
  // From `chosen` and `weights`; each expert's slots are filled up to a multiple of `multiple`.
  void Sort(int64_t experts, int64_t top_k, int64_t multiple);
  static int64_t MostSlots(int64_t tokens, int64_t experts, int64_t top_k, int64_t multiple) {
    return tokens * top_k + experts * (multiple - 1);
  }
};

// How the auxiliary loss counts: alpha · Σ load · P, an expert's load being its share of the
// choices, relative to an even one, in a sequence or in the microbatch.
struct BalanceOptions {
  int64_t experts = 0;
  int64_t top_k = 0;
  double alpha = 0;
  bool per_sequence = true;
};

// As the model's family has it.
BalanceOptions BalanceOf(const ModelConfig& config);

// alpha · balance of `slots`' choices, whose rows begin at tokens starts[0 … batch]; fills
// slots.balance with its gradient, times `loss_scale`. REQUIRES: no row is empty.
double SetBalance(const BalanceOptions& options, int64_t batch, const int64_t* starts,
                  float loss_scale, ExpertSlots& slots);

}  // namespace mindforge
