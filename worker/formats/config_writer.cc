// ModelConfig -> config.json: as what other programs call the model where they have it, and as
// MiniMind's own code does.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/config_json.h"
#include "worker/formats/rope_json.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

bool IsThirdMoe(const ModelConfig& config) {
  return config.use_moe && config.moe_family == MoeFamily::kMinimind3;
}

// What transformers calls a model that computes the same; "minimind" where it has none.
struct Kind {
  const char* type;
  const char* architecture;
};

Kind KindOf(const ModelConfig& config) {
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  const bool own_scaling = scaling.has_value() && scaling->type == RopeScaling::Type::kMinimind;
  if (!own_scaling && HasStandardYarnRamp(config)) {
    if (!config.use_moe && config.qk_norm) return {"qwen3", "Qwen3ForCausalLM"};
    if (!config.use_moe) return {"llama", "LlamaForCausalLM"};
    if (config.qk_norm && IsThirdMoe(config)) return {"qwen3_moe", "Qwen3MoeForCausalLM"};
  }
  return {"minimind", "MiniMindForCausalLM"};
}

Json Shape(const ModelConfig& config, const Kind& kind) {
  return {{"model_type", kind.type},
          {"architectures", Json::array({kind.architecture})},
          {"torch_dtype", "float32"},
          {"hidden_size", config.hidden_size},
          {"num_hidden_layers", config.num_hidden_layers},
          {"vocab_size", config.vocab_size},
          {"num_attention_heads", config.num_attention_heads},
          {"num_key_value_heads", config.num_key_value_heads},
          {"head_dim", config.HeadDim()},
          {"intermediate_size", config.IntermediateSize()},
          {"max_position_embeddings", config.max_position_embeddings},
          {"rope_theta", config.rope_theta},
          {"rms_norm_eps", config.rms_norm_eps},
          {"hidden_act", "silu"},
          {"dropout", config.dropout},
          {"bos_token_id", config.bos_token_id},
          {"eos_token_id", config.eos_token_id},
          {"pad_token_id", config.pad_token_id},
          {"tie_word_embeddings", config.tie_word_embeddings}};
}

void AddThirdMoe(const ModelConfig& config, Json* json) {
  (*json)["num_experts"] = config.n_routed_experts;
  (*json)["num_experts_per_tok"] = config.num_experts_per_tok;
  (*json)["moe_intermediate_size"] = config.MoeIntermediateSize();
  (*json)["norm_topk_prob"] = config.norm_topk_prob;
  (*json)["router_aux_loss_coef"] = config.aux_loss_alpha;
}

void AddSecondMoe(const ModelConfig& config, Json* json) {
  (*json)["num_experts_per_tok"] = config.num_experts_per_tok;
  (*json)["n_routed_experts"] = config.n_routed_experts;
  (*json)["n_shared_experts"] = config.n_shared_experts;
  (*json)["scoring_func"] = "softmax";
  (*json)["aux_loss_alpha"] = config.aux_loss_alpha;
  (*json)["seq_aux"] = config.seq_aux;
  (*json)["norm_topk_prob"] = config.norm_topk_prob;
}

void AddMoe(const ModelConfig& config, Json* json) {
  if (IsThirdMoe(config)) {
    AddThirdMoe(config, json);
  } else {
    AddSecondMoe(config, json);
  }
}

// MiniMind-3 always normalises q and k; its mixture has no shared experts.
absl::StatusOr<bool> IsThirdRelease(const ModelConfig& config) {
  if (config.use_moe && config.qk_norm != IsThirdMoe(config)) {
    return absl::InvalidArgumentError(
        config.qk_norm
            ? "no release of MiniMind has both qk_norm and MiniMind2's mixture of experts"
            : "no release of MiniMind has its third mixture of experts without qk_norm");
  }
  return config.qk_norm;
}

// The codes of both releases know one scaling each, whatever config.json says of its numbers.
absl::Status AddMinimindScaling(const ModelConfig& config, bool third, Json* json) {
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  (*json)["inference_rope_scaling"] = scaling.has_value();
  if (!scaling.has_value()) return absl::OkStatus();
  const RopeScaling known = third ? Minimind3RopeScaling() : RopeScaling{};
  if (*scaling != known) {
    return absl::InvalidArgumentError(
        absl::StrCat(third ? "MiniMind-3's code" : "MiniMind2's code", " stretches positions by ",
                     RopeScalingToJson(known).dump(), " alone, this model by ",
                     RopeScalingToJson(*scaling).dump()));
  }
  Json written = RopeScalingToJson(*scaling);
  written.erase("rope_type");
  written["type"] = "yarn";  // their name of both formulas
  if (!third) written.erase("attention_factor");
  (*json)["rope_scaling"] = std::move(written);
  return absl::OkStatus();
}

}  // namespace

Json ModelConfigToJson(const ModelConfig& config) {
  const Kind kind = KindOf(config);
  const std::string type = kind.type;
  Json json = Shape(config, kind);
  json["flash_attention"] = config.flash_attention;
  json["attention_bias"] = false;
  if (config.rope_scaling.has_value()) {
    json["rope_scaling"] = RopeScalingToJson(*config.rope_scaling);
  }
  if (type == "llama") json["mlp_bias"] = false;
  if (type == "qwen3_moe") {
    json["decoder_sparse_step"] = 1;
    json["mlp_only_layers"] = Json::array();
    AddMoe(config, &json);
  }
  if (type != "minimind") return json;
  json["qk_norm"] = config.qk_norm;
  json["inference_rope_scaling"] = config.inference_rope_scaling;
  json["use_moe"] = config.use_moe;
  if (config.use_moe) AddMoe(config, &json);
  return json;
}

absl::StatusOr<Json> MinimindConfigToJson(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const bool third, IsThirdRelease(config));
  if (!third && config.HeadDim() * config.num_attention_heads != config.hidden_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("MiniMind2 has no head_dim of its own: it is ", config.HeadDim(),
                     ", hidden_size / heads is ",
                     config.hidden_size / std::max<int64_t>(config.num_attention_heads, 1)));
  }
  Json json = Shape(config, {"minimind", "MiniMindForCausalLM"});
  json["flash_attn"] = config.flash_attention;
  json["use_moe"] = config.use_moe;
  RETURN_IF_ERROR(AddMinimindScaling(config, third, &json));
  if (config.use_moe) AddMoe(config, &json);
  return json;
}

}  // namespace mindforge
