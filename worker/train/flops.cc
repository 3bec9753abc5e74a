#include "worker/train/flops.h"

namespace mindforge {
namespace {

struct Ceiling {
  std::string_view model;  // part of the name that the driver gives
  double bfloat16;
  double float32;
};

// From the makers' data sheets.
constexpr Ceiling kCeilings[] = {
    {"H200", 989e12, 67e12},      {"H100 PCIe", 756e12, 51e12}, {"H100", 989e12, 67e12},
    {"A100", 312e12, 19.5e12},    {"A10G", 70e12, 35e12},       {"A10", 125e12, 31.2e12},
    {"L40S", 362e12, 91.6e12},    {"L4", 121e12, 30.3e12},      {"RTX 4090", 165e12, 82.6e12},
    {"RTX 3090", 71e12, 35.6e12},
};

}  // namespace

double FlopsPerToken(const ModelConfig& config, int64_t length) {
  // The embedding is looked up, not multiplied; as a tied head it is multiplied once.
  const double embedding = static_cast<double>(config.vocab_size * config.hidden_size);
  const double multiplied =
      static_cast<double>(config.ParameterCount()) - (config.tie_word_embeddings ? 0.0 : embedding);
  // Of the routed experts a token is multiplied with those it is sent to.
  const double idle =
      config.use_moe ? static_cast<double>((config.n_routed_experts - config.num_experts_per_tok) *
                                           config.num_hidden_layers * 3 * config.hidden_size *
                                           config.IntermediateSize())
                     : 0;
  return 6 * (multiplied - idle) +
         12.0 * static_cast<double>(config.num_hidden_layers * config.num_attention_heads *
                                    config.HeadDim() * length);
}

double PeakFlops(std::string_view device_model, bool half_precision) {
  for (const Ceiling& ceiling : kCeilings) {
    if (device_model.find(ceiling.model) != std::string_view::npos) {
      return half_precision ? ceiling.bfloat16 : ceiling.float32;
    }
  }
  return 0;
}

}  // namespace mindforge
