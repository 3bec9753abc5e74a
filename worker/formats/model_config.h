// A MiniMind model's shape, in the names of Hugging Face's config.json. Torch-free, so that the
// coordinator's clients can read and check it. It does not know where the file came from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace mindforge {

// How RoPE's frequencies are stretched beyond the length the model was trained on.
struct RopeScaling {
  enum class Type { kMinimind, kYarn };
  Type type = Type::kMinimind;
  int64_t original_max_position_embeddings = 2048;
  double factor = 4;
  double beta_fast = 4;
  double beta_slow = 1;
  double attention_factor = 1;

  bool operator==(const RopeScaling&) const = default;
};

// Which release's mixture of experts a model has. They differ in three things:
//   kMinimind2: the k chosen scores are divided by (their sum + 1e-20) when k > 1; shared experts;
//     auxiliary loss per sequence (seq_aux) or over the microbatch, counts divided by k.
//   kMinimind3: divided also when k = 1, so that a top-1 weight is 1; no shared experts; auxiliary
//     loss over all tokens of the microbatch, aux_loss_alpha·E·Σ(load·P), counts not divided by k.
enum class MoeFamily { kMinimind2, kMinimind3 };

// Everything that decides a model's parameters and arithmetic. A value type.
struct ModelConfig {
  int64_t hidden_size = 512;
  int64_t num_hidden_layers = 8;
  int64_t vocab_size = 6400;
  int64_t num_attention_heads = 8;
  int64_t num_key_value_heads = 2;
  int64_t head_dim = 0;           // 0: hidden_size / num_attention_heads
  int64_t intermediate_size = 0;  // 0: 64·ceil(int(hidden·8/3)/64)
  int64_t max_position_embeddings = 32768;
  double rope_theta = 1e6;
  double rms_norm_eps = 1e-5;
  double dropout = 0.0;
  bool flash_attention = true;
  int64_t bos_token_id = 1;
  int64_t eos_token_id = 2;
  int64_t pad_token_id = 0;
  bool tie_word_embeddings = true;
  bool qk_norm = false;
  bool inference_rope_scaling = false;
  std::optional<RopeScaling> rope_scaling;

  bool use_moe = false;
  MoeFamily moe_family = MoeFamily::kMinimind2;
  int64_t moe_intermediate_size = 0;  // an expert's width; 0: IntermediateSize()
  int64_t num_experts_per_tok = 2;
  int64_t n_routed_experts = 4;
  int64_t n_shared_experts = 1;  // kMinimind3: 0
  double aux_loss_alpha = 0.1;   // kMinimind3: its router_aux_loss_coef
  bool seq_aux = true;           // kMinimind3: false
  bool norm_topk_prob = true;

  int64_t HeadDim() const;
  int64_t IntermediateSize() const;
  // The inner width of one expert of a mixture.
  int64_t MoeIntermediateSize() const;
  // Whether a token's weights of the experts are divided by (their sum + 1e-20).
  bool NormalizesTopK() const;
  // Number of trained scalars, a tied head counted once.
  int64_t ParameterCount() const;
  // The scaling in force: `rope_scaling`, or MiniMind's own when only inference_rope_scaling is
  // set.
  std::optional<RopeScaling> EffectiveRopeScaling() const;

  bool operator==(const ModelConfig&) const = default;
};

// One thing wrong with a configuration.
struct ModelConfigProblem {
  std::string field;   // config.json name, for example `hidden_size`
  std::string reason;  // what was expected and what was given
};

// Every problem of `config`, none when it can be built (positive sizes, heads divisible, even head
// dimension, ids inside the vocabulary …).
std::vector<ModelConfigProblem> ValidateModelConfig(const ModelConfig& config);

// Reads a config.json object: MiniMind's (the default model_type) with the defaults above, or
// llama, qwen3 and qwen3_moe as Hugging Face writes them, with that library's defaults. Sizes left
// open (head_dim, intermediate_size, num_key_value_heads: null) are filled in. Fields that nobody
// knows are named in `warnings` (may be null). INVALID_ARGUMENT lists every field of a wrong type
// or value, and those that would change the arithmetic and are not supported. Where there are
// tensors, ReadModelConfig (config_json.h) hears them too.
absl::StatusOr<ModelConfig> ParseModelConfig(const nlohmann::json& json,
                                             std::vector<std::string>* warnings);

// The config.json that ParseModelConfig reads back to an equal value (open sizes filled in). Dense
// models are written as LlamaForCausalLM, with qk_norm as Qwen3ForCausalLM, MiniMind-3's mixture
// with it as Qwen3MoeForCausalLM; what those do not have (MiniMind2's mixture, MiniMind's own RoPE
// scaling) as `minimind`.
nlohmann::json ModelConfigToJson(const ModelConfig& config);

}  // namespace mindforge
