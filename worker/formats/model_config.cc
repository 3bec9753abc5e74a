#include "worker/formats/model_config.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mindforge {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 24;  // of any dimension
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxExperts = 1024;
constexpr int64_t kMaxPositions = int64_t{1} << 30;
constexpr int64_t kMaxParameters = int64_t{1} << 40;  // 4 TiB of float32, far from overflow

// Gathers problems of one configuration.
class Checker {
 public:
  void Require(bool holds, const char* field, std::string reason) {
    if (!holds) problems.push_back({field, std::move(reason)});
  }

  void Between(int64_t value, int64_t low, int64_t high, const char* field) {
    Require(value >= low && value <= high, field,
            absl::StrCat("must be from ", low, " to ", high, ", it is ", value));
  }

  void Positive(double value, const char* field) {
    Require(std::isfinite(value) && value > 0, field,
            absl::StrCat("must be positive, it is ", value));
  }

  std::vector<ModelConfigProblem> problems;
};

void CheckRope(const ModelConfig& config, Checker* check) {
  check->Require(std::isfinite(config.rope_theta) && config.rope_theta > 1, "rope_theta",
                 absl::StrCat("must be greater than 1, it is ", config.rope_theta));
  if (!config.rope_scaling.has_value()) return;
  const RopeScaling& scaling = *config.rope_scaling;
  check->Between(scaling.original_max_position_embeddings, 1, kMaxPositions,
                 "rope_scaling.original_max_position_embeddings");
  check->Require(std::isfinite(scaling.factor) && scaling.factor >= 1, "rope_scaling.factor",
                 absl::StrCat("must be at least 1, it is ", scaling.factor));
  check->Positive(scaling.beta_fast, "rope_scaling.beta_fast");
  check->Positive(scaling.beta_slow, "rope_scaling.beta_slow");
  check->Positive(scaling.attention_factor, "rope_scaling.attention_factor");
}

// Names the fields as the family's config.json does.
void CheckMoe(const ModelConfig& config, Checker* check) {
  if (!config.use_moe) return;
  const bool third = config.moe_family == MoeFamily::kMinimind3;
  check->Between(config.n_routed_experts, 1, kMaxExperts,
                 third ? "num_experts" : "n_routed_experts");
  check->Between(config.num_experts_per_tok, 1, std::max<int64_t>(config.n_routed_experts, 1),
                 "num_experts_per_tok");
  check->Require(std::isfinite(config.aux_loss_alpha) && config.aux_loss_alpha >= 0,
                 third ? "router_aux_loss_coef" : "aux_loss_alpha",
                 absl::StrCat("must not be negative, it is ", config.aux_loss_alpha));
  if (!third) {
    check->Between(config.n_shared_experts, 0, kMaxExperts, "n_shared_experts");
    check->Require(config.moe_intermediate_size == 0, "moe_intermediate_size",
                   absl::StrCat("is MiniMind-3's: MiniMind2's experts are as wide as ",
                                "intermediate_size; it is ", config.moe_intermediate_size));
    return;
  }
  check->Between(config.moe_intermediate_size, 0, kMaxSize, "moe_intermediate_size");
  check->Require(config.n_shared_experts == 0, "n_shared_experts",
                 absl::StrCat("must be 0: MiniMind-3's mixture has no shared experts, it is ",
                              config.n_shared_experts));
  check->Require(!config.seq_aux, "seq_aux",
                 "must be false: MiniMind-3's mixture takes its auxiliary loss over all tokens of "
                 "the microbatch");
}

// In float64 where int64 could overflow.
template <typename Number>
Number CountParameters(const ModelConfig& c) {
  const auto hidden = static_cast<Number>(c.hidden_size);
  const auto dim = static_cast<Number>(c.HeadDim());
  const Number query = static_cast<Number>(c.num_attention_heads) * dim;
  const Number key = static_cast<Number>(c.num_key_value_heads) * dim;
  const Number attention = hidden * (query + 2 * key) + query * hidden + (c.qk_norm ? 2 * dim : 0);
  const auto routed = static_cast<Number>(c.n_routed_experts);
  const Number feed_forward = c.use_moe
                                  ? (routed + static_cast<Number>(c.n_shared_experts)) * 3 *
                                            hidden * static_cast<Number>(c.MoeIntermediateSize()) +
                                        routed * hidden
                                  : 3 * hidden * static_cast<Number>(c.IntermediateSize());
  const Number embedding = static_cast<Number>(c.vocab_size) * hidden;
  return embedding * (c.tie_word_embeddings ? 1 : 2) +
         static_cast<Number>(c.num_hidden_layers) * (attention + feed_forward + 2 * hidden) +
         hidden;
}

}  // namespace

int64_t ModelConfig::HeadDim() const {
  if (head_dim > 0) return head_dim;
  return num_attention_heads > 0 ? hidden_size / num_attention_heads : 0;
}

int64_t ModelConfig::IntermediateSize() const {
  if (intermediate_size > 0) return intermediate_size;
  return (hidden_size * 8 / 3 + 63) / 64 * 64;
}

int64_t ModelConfig::MoeIntermediateSize() const {
  return moe_intermediate_size > 0 ? moe_intermediate_size : IntermediateSize();
}

bool ModelConfig::NormalizesTopK() const {
  return norm_topk_prob && (num_experts_per_tok > 1 || moe_family == MoeFamily::kMinimind3);
}

int64_t ModelConfig::ParameterCount() const { return CountParameters<int64_t>(*this); }

std::optional<RopeScaling> ModelConfig::EffectiveRopeScaling() const {
  if (rope_scaling.has_value()) return rope_scaling;
  if (inference_rope_scaling) return RopeScaling{};
  return std::nullopt;
}

std::vector<ModelConfigProblem> ValidateModelConfig(const ModelConfig& config) {
  Checker check;
  check.Between(config.hidden_size, 1, kMaxSize, "hidden_size");
  check.Between(config.num_hidden_layers, 1, kMaxLayers, "num_hidden_layers");
  check.Between(config.vocab_size, 1, kMaxSize, "vocab_size");
  check.Between(config.num_attention_heads, 1, kMaxHeads, "num_attention_heads");
  check.Between(config.num_key_value_heads, 1, kMaxHeads, "num_key_value_heads");
  check.Between(config.head_dim, 0, kMaxSize, "head_dim");
  check.Between(config.intermediate_size, 0, kMaxSize, "intermediate_size");
  check.Between(config.max_position_embeddings, 1, kMaxPositions, "max_position_embeddings");
  check.Positive(config.rms_norm_eps, "rms_norm_eps");
  check.Require(config.dropout >= 0 && config.dropout < 1, "dropout",
                absl::StrCat("must be at least 0 and less than 1, it is ", config.dropout));
  if (config.num_attention_heads > 0 && config.hidden_size > 0) {
    if (config.head_dim == 0) {
      check.Require(config.hidden_size % config.num_attention_heads == 0, "num_attention_heads",
                    absl::StrCat("must divide hidden_size ", config.hidden_size,
                                 " (or set head_dim), ", "it is ", config.num_attention_heads));
    }
    const int64_t dim = config.HeadDim();
    check.Require(dim > 0 && dim % 2 == 0, "head_dim",
                  absl::StrCat("must be even for RoPE, it is ", dim));
  }
  if (config.num_key_value_heads > 0) {
    check.Require(config.num_attention_heads % config.num_key_value_heads == 0,
                  "num_key_value_heads",
                  absl::StrCat("must divide num_attention_heads ", config.num_attention_heads,
                               ", it is ", config.num_key_value_heads));
  }
  for (const auto& [id, field] : {std::pair{config.bos_token_id, "bos_token_id"},
                                  std::pair{config.eos_token_id, "eos_token_id"},
                                  std::pair{config.pad_token_id, "pad_token_id"}}) {
    check.Between(id, 0, std::max<int64_t>(config.vocab_size, 1) - 1, field);
  }
  CheckRope(config, &check);
  CheckMoe(config, &check);
  if (!check.problems.empty()) return std::move(check.problems);
  const auto parameters = CountParameters<double>(config);
  check.Require(parameters <= static_cast<double>(kMaxParameters), "hidden_size",
                absl::StrCat("and the other sizes make a model of ", parameters,
                             " parameters; at most ", kMaxParameters, " can be built"));
  return std::move(check.problems);
}

}  // namespace mindforge
