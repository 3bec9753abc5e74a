#include "worker/model/expert_slots.h"

#include <cstddef>

namespace mindforge {

void ExpertSlots::Resize(int64_t tokens, int64_t experts, int64_t top_k) {
  scores.resize(tokens * experts);
  chosen.resize(tokens * top_k);
  weights.resize(tokens * top_k);
  slots.resize(tokens * top_k);
}

void ExpertSlots::Sort(int64_t experts, int64_t top_k, int64_t multiple) {
  used.assign(experts, 0);
  for (const int32_t expert : chosen) ++used[expert];
  starts.assign(1, 0);
  for (const int64_t count : used) {
    starts.push_back(starts.back() + (count + multiple - 1) / multiple * multiple);
  }
  slot_tokens.assign(size(), -1);
  slot_weights.assign(size(), 0);
  slot_experts.resize(size());
  for (int64_t expert = 0; expert < experts; ++expert) {
    for (int64_t slot = starts[expert]; slot < starts[expert + 1]; ++slot) {
      slot_experts[slot] = static_cast<int32_t>(expert);
    }
    used[expert] = 0;
  }
  for (size_t i = 0; i < chosen.size(); ++i) {
    const int64_t slot = starts[chosen[i]] + used[chosen[i]]++;
    slots[i] = static_cast<int32_t>(slot);
    slot_tokens[slot] = static_cast<int32_t>(static_cast<int64_t>(i) / top_k);
    slot_weights[slot] = weights[i];
  }
}

BalanceOptions BalanceOf(const ModelConfig& config) {
  BalanceOptions options{.experts = config.n_routed_experts,
                         .top_k = config.num_experts_per_tok,
                         .alpha = config.aux_loss_alpha,
                         .per_sequence = config.seq_aux};
  if (config.moe_family == MoeFamily::kMinimind3) {
    // Its load adds the k choices of a token up instead of taking their mean.
    options.alpha *= static_cast<double>(config.num_experts_per_tok);
    options.per_sequence = false;
  }
  return options;
}

double SetBalance(const BalanceOptions& o, int64_t batch, const int64_t* starts, float loss_scale,
                  ExpertSlots& slots) {
  const int64_t tokens = starts[batch];
  slots.balance.assign(batch * o.experts, 0);
  // How often each expert was chosen, in a row or in the whole microbatch.
  std::vector<int64_t> counts(o.experts, 0);
  const auto count = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * o.top_k; i < end * o.top_k; ++i) ++counts[slots.chosen[i]];
  };
  if (!o.per_sequence) count(0, tokens);
  double total = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = starts[b + 1] - starts[b];
    if (o.per_sequence) {
      counts.assign(o.experts, 0);
      count(starts[b], starts[b + 1]);
    }
    // The load is relative to an even one; the mean over `length` or all tokens follows.
    const auto over = static_cast<double>(o.per_sequence ? length : tokens);
    const double share = o.per_sequence ? o.alpha / static_cast<double>(batch) : o.alpha;
    for (int64_t e = 0; e < o.experts; ++e) {
      const double load =
          static_cast<double>(counts[e] * o.experts) / (over * static_cast<double>(o.top_k));
      const double factor = share * load / over;
      double sum = 0;
      for (int64_t t = starts[b]; t < starts[b + 1]; ++t) {
        sum += static_cast<double>(slots.scores[t * o.experts + e]);
      }
      total += factor * sum;
      slots.balance[b * o.experts + e] = static_cast<float>(factor) * loss_scale;
    }
  }
  return total;
}

}  // namespace mindforge
