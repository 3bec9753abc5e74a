// config.json -> ModelConfig, in the spellings of MiniMind's releases and of Hugging Face's llama,
// qwen3 and qwen3_moe.
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/formats/config_fields.h"
#include "worker/formats/config_json.h"
#include "worker/formats/other_fields.h"
#include "worker/formats/rope_json.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

enum class Family { kMinimind, kLlama, kQwen3, kQwen3Moe };

std::optional<Family> FamilyOf(std::string_view model_type) {
  if (model_type == "minimind" || model_type == "mokiomind") return Family::kMinimind;
  if (model_type == "llama") return Family::kLlama;
  if (model_type == "qwen3") return Family::kQwen3;
  if (model_type == "qwen3_moe") return Family::kQwen3Moe;
  return std::nullopt;
}

// One file being read.
class Reading {
 public:
  Reading(const Json& json, const ShownByTensors& shown)
      : json_(json), shown_(shown), fields_(json, "", &problems_) {}

  absl::StatusOr<ModelConfig> Run(std::vector<std::string>* notes) {
    std::string type = "minimind";
    fields_.Read("model_type", &type);
    const std::optional<Family> family = FamilyOf(type);
    if (!family.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model configuration: model_type \"", type,
                       "\" is not supported; minimind, mokiomind, llama, qwen3 and qwen3_moe are"));
    }
    family_ = *family;
    ReadAll();
    if (problems_.empty()) {
      for (const ModelConfigProblem& problem : ValidateModelConfig(config_)) {
        problems_.push_back(absl::StrCat(problem.field, " ", problem.reason));
      }
    }
    if (!problems_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model configuration: ", absl::StrJoin(problems_, "; ")));
    }
    config_.head_dim = config_.HeadDim();
    config_.intermediate_size = config_.IntermediateSize();
    if (config_.moe_family == MoeFamily::kMinimind3) {
      config_.moe_intermediate_size = config_.MoeIntermediateSize();
    }
    if (notes != nullptr) notes->insert(notes->end(), notes_.begin(), notes_.end());
    return config_;
  }

 private:
  bool HuggingFace() const { return family_ != Family::kMinimind; }
  bool Says(const char* name) { return fields_.Find(name) != nullptr; }

  void ReadAll() {
    if (HuggingFace()) {
      ApplyHuggingFaceDefaults();
    } else {
      third_release_ = IsThirdRelease();
      if (third_release_) ApplyThirdReleasesDefaults();
    }
    ReadScalars();
    ReadQkNorm();
    if (family_ == Family::kMinimind) ReadMinimindMoe();
    if (family_ == Family::kQwen3Moe) ReadExperts();
    ReadTokenIds();
    std::vector<std::string> unknown;
    ReadRope({HuggingFace(), &problems_, &notes_, &unknown}, &fields_, &config_);
    ReadInferenceScaling();
    for (std::string& name : CheckOtherFields(json_, config_, &fields_)) {
      unknown.push_back(std::move(name));
    }
    if (!unknown.empty()) {
      notes_.push_back(absl::StrCat("config.json: not known and not used: `",
                                    absl::StrJoin(unknown, "`, `"), "`"));
    }
  }

  // transformers' own defaults where they differ from MiniMind's.
  void ApplyHuggingFaceDefaults() {
    std::vector<const char*> needed = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                       "vocab_size"};
    if (family_ == Family::kQwen3Moe) {
      needed.insert(needed.end(), {"moe_intermediate_size", "num_experts_per_tok"});
      if (!Says("num_experts") && !Says("num_local_experts")) needed.push_back("num_experts");
    } else {
      needed.push_back("intermediate_size");
    }
    for (const char* const name : needed) {
      if (!Says(name)) fields_.Problem(name, "is missing");
    }
    config_.rope_theta = 10000;
    config_.rms_norm_eps = 1e-6;
    config_.tie_word_embeddings = false;
    config_.max_position_embeddings = family_ == Family::kLlama ? 2048 : 32768;
    if (family_ == Family::kQwen3) config_.head_dim = 128;
  }

  // Its config has no field for the norms of q and k, which it always has; ours has.
  bool IsThirdRelease() {
    if (Says("qk_norm")) return false;
    return shown_.qk_norm || SaysThirdReleasesMoe();
  }

  bool SaysThirdReleasesMoe() {
    bool use_moe = shown_.experts;
    fields_.Read("use_moe", &use_moe);
    return use_moe &&
           (Says("num_experts") || Says("moe_intermediate_size") || Says("router_aux_loss_coef"));
  }

  void ApplyThirdReleasesDefaults() {
    config_.hidden_size = 768;
    config_.num_key_value_heads = 4;
    config_.rms_norm_eps = 1e-6;
  }

  void ReadScalars() {
    fields_.Read("hidden_size", &config_.hidden_size);
    fields_.Read("num_hidden_layers", &config_.num_hidden_layers);
    fields_.Read("vocab_size", &config_.vocab_size);
    fields_.Read("num_attention_heads", &config_.num_attention_heads);
    fields_.Read("head_dim", &config_.head_dim);
    if (!fields_.Read("intermediate_size", &config_.intermediate_size) && third_release_) {
      config_.intermediate_size =
          64 * static_cast<int64_t>(
                   std::ceil(static_cast<double>(config_.hidden_size) * 3.141592653589793 / 64));
    }
    fields_.Read("max_position_embeddings", &config_.max_position_embeddings);
    fields_.Read("rope_theta", &config_.rope_theta);
    fields_.Read("rms_norm_eps", &config_.rms_norm_eps);
    fields_.Read("dropout", &config_.dropout);
    fields_.Read("flash_attn", &config_.flash_attention);
    fields_.Read("flash_attention", &config_.flash_attention);
    fields_.Read("tie_word_embeddings", &config_.tie_word_embeddings);
    if (config_.tie_word_embeddings && shown_.own_head) {
      config_.tie_word_embeddings = false;
      notes_.push_back(
          "config.json ties lm_head.weight to model.embed_tokens.weight, but the weights hold two "
          "different ones: both are used (tie_word_embeddings: false)");
    }
    const bool null = json_.contains("num_key_value_heads");
    if (!fields_.Read("num_key_value_heads", &config_.num_key_value_heads) &&
        (null || HuggingFace())) {
      config_.num_key_value_heads = config_.num_attention_heads;
    }
  }

  void ReadQkNorm() {
    config_.qk_norm = family_ == Family::kQwen3 || family_ == Family::kQwen3Moe || shown_.qk_norm;
    if (family_ == Family::kLlama && shown_.qk_norm) {
      notes_.push_back(
          "config.json says model_type llama, but the weights hold q_norm and k_norm: they are "
          "used");
    }
    bool says = config_.qk_norm;
    fields_.Read("qk_norm", &says);
    if (says == config_.qk_norm) return;
    if (says) {
      config_.qk_norm = true;  // its tensors are missing, which the reader of them says
    } else {
      notes_.push_back(
          "config.json says qk_norm: false, but the weights hold q_norm and k_norm: they are used");
    }
  }

  void ReadMinimindMoe() {
    const bool says = fields_.Read("use_moe", &config_.use_moe);
    if (shown_.experts && !config_.use_moe) {
      config_.use_moe = true;
      if (says) {
        notes_.push_back("config.json says use_moe: false, but the weights hold experts");
      }
    }
    if (!config_.use_moe) return LeaveOutMoe();
    const bool third = SaysThirdReleasesMoe();
    const bool second = Says("n_routed_experts") || Says("n_shared_experts") ||
                        Says("aux_loss_alpha") || Says("seq_aux");
    if (!third && !second && shown_.qk_norm && !shown_.shared_experts) {
      notes_.push_back(
          "assumed: MiniMind-3's mixture of experts (num_experts, moe_intermediate_size and "
          "router_aux_loss_coef in config.json would say so)");
      return ReadExperts();
    }
    if (third) return ReadExperts();
    fields_.Read("num_experts_per_tok", &config_.num_experts_per_tok);
    fields_.Read("n_routed_experts", &config_.n_routed_experts);
    fields_.Read("n_shared_experts", &config_.n_shared_experts);
    fields_.Read("aux_loss_alpha", &config_.aux_loss_alpha);
    fields_.Read("seq_aux", &config_.seq_aux);
    fields_.Read("norm_topk_prob", &config_.norm_topk_prob);
  }

  // MiniMind's own dense configurations hold the fields of a mixture too.
  void LeaveOutMoe() {
    for (const char* const name :
         {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef",
          "norm_topk_prob", "n_routed_experts", "n_shared_experts", "aux_loss_alpha", "seq_aux"}) {
      fields_.Find(name);
    }
  }

  // MiniMind-3's mixture, which is qwen3_moe's.
  void ReadExperts() {
    config_.use_moe = true;
    config_.moe_family = MoeFamily::kMinimind3;
    config_.seq_aux = false;
    config_.n_shared_experts = 0;
    config_.num_experts_per_tok = 1;
    config_.norm_topk_prob = family_ == Family::kMinimind;
    config_.aux_loss_alpha = family_ == Family::kMinimind ? 5e-4 : 1e-3;
    fields_.Read("n_shared_experts", &config_.n_shared_experts);
    fields_.Read("num_local_experts", &config_.n_routed_experts);
    fields_.Read("num_experts", &config_.n_routed_experts);
    int64_t other = config_.n_routed_experts;
    fields_.Read("n_routed_experts", &other);
    if (other != config_.n_routed_experts) {
      fields_.Problem("n_routed_experts", absl::StrCat("is ", other, ", but num_experts is ",
                                                       config_.n_routed_experts));
    }
    fields_.Read("num_experts_per_tok", &config_.num_experts_per_tok);
    fields_.Read("moe_intermediate_size", &config_.moe_intermediate_size);
    fields_.Read("norm_topk_prob", &config_.norm_topk_prob);
    fields_.Read("router_aux_loss_coef", &config_.aux_loss_alpha);
  }

  void ReadTokenIds() {
    fields_.Read("bos_token_id", &config_.bos_token_id);
    fields_.Read("pad_token_id", &config_.pad_token_id);
    const Json* eos = fields_.Find("eos_token_id");
    if (eos != nullptr && eos->is_array() && !eos->empty() && (*eos)[0].is_number_integer()) {
      config_.eos_token_id = (*eos)[0].get<int64_t>();  // all of them: GenerationDefaults
    } else {
      fields_.Read("eos_token_id", &config_.eos_token_id);
    }
  }

  void ReadInferenceScaling() {
    if (HuggingFace()) return;
    fields_.Read("inference_rope_scaling", &config_.inference_rope_scaling);
    if (config_.rope_scaling.has_value()) {
      config_.inference_rope_scaling = false;  // explicit wins
    } else if (third_release_ && config_.inference_rope_scaling) {
      config_.inference_rope_scaling = false;
      config_.rope_scaling = Minimind3RopeScaling();
      notes_.push_back(
          "config.json: inference_rope_scaling of MiniMind-3 is yarn with factor 16, beta_fast 32, "
          "beta_slow 1 over 2048 positions");
    }
  }

  const Json& json_;
  const ShownByTensors& shown_;
  std::vector<std::string> problems_;
  std::vector<std::string> notes_;
  FieldReader fields_;
  Family family_ = Family::kMinimind;
  bool third_release_ = false;  // MiniMind-3's own folder
  ModelConfig config_;
};

bool SameContent(const TensorView& a, const TensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes &&
         (a.data == b.data || std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes)) == 0);
}

}  // namespace

ShownByTensors ShownBy(const FindTensor& find) {
  const std::string layer = "model.layers.0.";
  ShownByTensors shown;
  shown.qk_norm = find(layer + "self_attn.q_norm.weight") != nullptr &&
                  find(layer + "self_attn.k_norm.weight") != nullptr;
  shown.experts = find(layer + "mlp.gate.weight") != nullptr &&
                  find(layer + "mlp.experts.0.gate_proj.weight") != nullptr;
  shown.shared_experts = find(layer + "mlp.shared_experts.0.gate_proj.weight") != nullptr;
  const TensorView* const embedding = find("model.embed_tokens.weight");
  const TensorView* const head = find("lm_head.weight");
  shown.own_head = embedding != nullptr && head != nullptr && !SameContent(*embedding, *head);
  return shown;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const Json& json, const ShownByTensors& shown,
                                            std::vector<std::string>* notes) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: must be an object, it is ", json.type_name()));
  }
  return Reading(json, shown).Run(notes);
}

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, std::vector<std::string>* warnings) {
  return ReadModelConfig(json, {}, warnings);
}

}  // namespace mindforge
