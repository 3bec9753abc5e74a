#include "worker/train/flops.h"

#include "absl/strings/ascii.h"

namespace mindforge {
namespace {

struct Ceiling {
  std::string_view model;  // words of the name that the driver gives
  double bfloat16;
  double float32;
};

// From the makers' data sheets.
constexpr Ceiling kCeilings[] = {
    {"GH200", 989e12, 67e12}, {"H200", 989e12, 67e12},       {"H100 PCIe", 756e12, 51e12},
    {"H100", 989e12, 67e12},  {"A100", 312e12, 19.5e12},     {"A10G", 70e12, 35e12},
    {"A10", 125e12, 31.2e12}, {"L40S", 362e12, 91.6e12},     {"L40", 181e12, 90.5e12},
    {"L4", 121e12, 30.3e12},  {"RTX 4090", 165e12, 82.6e12}, {"RTX 3090", 71e12, 35.6e12},
};

bool IsWordChar(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)); }

// "L4" is in "NVIDIA L4", and not in "NVIDIA L40".
bool HasWords(std::string_view text, std::string_view words) {
  for (size_t at = text.find(words); at != std::string_view::npos; at = text.find(words, at + 1)) {
    const size_t end = at + words.size();
    if ((at == 0 || !IsWordChar(text[at - 1])) && (end == text.size() || !IsWordChar(text[end]))) {
      return true;
    }
  }
  return false;
}

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
                                           config.MoeIntermediateSize())
                     : 0;
  return 6 * (multiplied - idle) +
         12.0 * static_cast<double>(config.num_hidden_layers * config.num_attention_heads *
                                    config.HeadDim() * length);
}

double PeakFlops(std::string_view device_model, bool half_precision) {
  for (const Ceiling& ceiling : kCeilings) {
    if (HasWords(device_model, ceiling.model)) {
      return half_precision ? ceiling.bfloat16 : ceiling.float32;
    }
  }
  return 0;
}

}  // namespace mindforge
