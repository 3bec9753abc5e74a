// config.json <-> ModelConfig, in the spellings of MiniMind and of Hugging Face's llama and qwen3.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/formats/model_config.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

// Fields of Hugging Face's files that change nothing here.
constexpr std::array kSilentFields = {
    "_name_or_path",          "architectures",  "auto_map",       "dtype",
    "initializer_range",      "layer_types",    "lora_rank",      "max_window_layers",
    "mindforge_prompt_style", "pretraining_tp", "sliding_window", "torch_dtype",
    "transformers_version",   "use_cache"};

// Reads fields one by one and remembers which; a null counts as absent.
class FieldReader {
 public:
  FieldReader(const Json& json, std::string prefix, std::vector<std::string>* problems)
      : json_(json), prefix_(std::move(prefix)), problems_(*problems) {}

  // Null when absent or null.
  const Json* Find(const char* name) {
    read_.insert(name);
    const auto it = json_.find(name);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }

  bool Read(const char* name, int64_t* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    // YAML and other languages write whole numbers as floats.
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(std::abs(number) < 9e15) || number != std::floor(number)) {
      Problem(name, "an integer", *value);
      return false;
    }
    *out = static_cast<int64_t>(number);
    return true;
  }

  bool Read(const char* name, double* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_number()) {
      Problem(name, "a number", *value);
      return false;
    }
    *out = value->get<double>();
    return true;
  }

  bool Read(const char* name, bool* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) {
      Problem(name, "true or false", *value);
      return false;
    }
    *out = value->get<bool>();
    return true;
  }

  bool Read(const char* name, std::string* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_string()) {
      Problem(name, "a string", *value);
      return false;
    }
    *out = value->get<std::string>();
    return true;
  }

  void Problem(const char* name, const char* expected, const Json& value) {
    std::string shown = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
    Problem(name, absl::StrCat("must be ", expected, ", it is ", shown));
  }
  void Problem(const char* name, const std::string& reason) {
    problems_.push_back(absl::StrCat(prefix_, name, " ", reason));
  }

  std::vector<std::string> Unread() const {
    std::vector<std::string> names;
    for (const auto& [name, value] : json_.items()) {
      if (!read_.contains(name)) names.push_back(prefix_ + name);
    }
    return names;
  }

 private:
  const Json& json_;
  const std::string prefix_;
  std::vector<std::string>& problems_;
  std::set<std::string> read_;
};

// Hugging Face's own defaults where they differ from MiniMind's.
void ApplyHuggingFaceDefaults(bool qwen3, FieldReader* fields, ModelConfig* config) {
  for (const char* name : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                           "intermediate_size"}) {
    if (fields->Find(name) == nullptr) fields->Problem(name, "is missing");
  }
  config->qk_norm = qwen3;
  config->rope_theta = 10000;
  config->rms_norm_eps = 1e-6;
  config->tie_word_embeddings = false;
  config->max_position_embeddings = qwen3 ? 32768 : 2048;
  if (qwen3) config->head_dim = 128;
}

void ReadRopeScaling(const Json& json, bool hugging_face, std::vector<std::string>* problems,
                     std::vector<std::string>* unread, ModelConfig* config) {
  if (!json.is_object()) {
    problems->push_back("rope_scaling must be an object");
    return;
  }
  FieldReader fields(json, "rope_scaling.", problems);
  std::string type = "default";
  std::string old_type;
  fields.Read("type", &old_type);
  if (!fields.Read("rope_type", &type) && !old_type.empty()) type = old_type;
  fields.Read("rope_theta", &config->rope_theta);  // `rope_parameters` holds it
  if (type == "default") return;
  RopeScaling scaling;
  if (type == "yarn") {
    scaling.type = RopeScaling::Type::kYarn;
    scaling.factor = 16;
    scaling.beta_fast = 32;
    // transformers' defaults differ from the reference's.
    if (hugging_face) scaling.original_max_position_embeddings = config->max_position_embeddings;
  } else if (type != "minimind") {
    fields.Problem("rope_type", absl::StrCat("\"", type,
                                             "\" is not supported; default, minimind and "
                                             "yarn are"));
    return;
  }
  fields.Read("original_max_position_embeddings", &scaling.original_max_position_embeddings);
  if (!fields.Read("factor", &scaling.factor) && hugging_face && type == "yarn" &&
      scaling.original_max_position_embeddings > 0) {
    scaling.factor = static_cast<double>(config->max_position_embeddings) /
                     static_cast<double>(scaling.original_max_position_embeddings);
  }
  fields.Read("beta_fast", &scaling.beta_fast);
  fields.Read("beta_slow", &scaling.beta_slow);
  if (!fields.Read("attention_factor", &scaling.attention_factor) && hugging_face &&
      scaling.factor > 1) {
    scaling.attention_factor = 0.1 * std::log(scaling.factor) + 1;  // transformers' default
  }
  for (std::string& name : fields.Unread()) unread->push_back(std::move(name));
  config->rope_scaling = scaling;
}

// What the llama and qwen3 families can switch on and we do not compute.
void RefuseUnsupported(FieldReader* fields) {
  std::string text = "silu";
  if (fields->Read("hidden_act", &text) && text != "silu") {
    fields->Problem("hidden_act", absl::StrCat("\"", text, "\" is not supported; silu is"));
  }
  text = "softmax";
  if (fields->Read("scoring_func", &text) && text != "softmax") {
    fields->Problem("scoring_func", absl::StrCat("\"", text, "\" is not supported; softmax is"));
  }
  for (const char* name : {"attention_bias", "mlp_bias", "use_sliding_window"}) {
    bool on = false;
    if (fields->Read(name, &on) && on) fields->Problem(name, "is not supported; it must be false");
  }
}

void ReadTokenIds(FieldReader* fields, ModelConfig* config) {
  fields->Read("bos_token_id", &config->bos_token_id);
  fields->Read("pad_token_id", &config->pad_token_id);
  const Json* eos = fields->Find("eos_token_id");
  if (eos != nullptr && eos->is_array() && !eos->empty() && (*eos)[0].is_number_integer()) {
    config->eos_token_id = (*eos)[0].get<int64_t>();  // all of them: GenerationDefaults
  } else {
    fields->Read("eos_token_id", &config->eos_token_id);
  }
}

void ReadMoe(FieldReader* fields, ModelConfig* config) {
  fields->Read("use_moe", &config->use_moe);
  fields->Read("num_experts_per_tok", &config->num_experts_per_tok);
  fields->Read("n_routed_experts", &config->n_routed_experts);
  fields->Read("n_shared_experts", &config->n_shared_experts);
  fields->Read("aux_loss_alpha", &config->aux_loss_alpha);
  fields->Read("seq_aux", &config->seq_aux);
  fields->Read("norm_topk_prob", &config->norm_topk_prob);
  if (config->use_moe && fields->Find("moe_intermediate_size") != nullptr) {
    fields->Problem("moe_intermediate_size",
                    "belongs to MiniMind-3's mixture of experts, which is not supported");
  }
}

void ReadScalars(FieldReader* fields, ModelConfig* config) {
  fields->Read("hidden_size", &config->hidden_size);
  fields->Read("num_hidden_layers", &config->num_hidden_layers);
  fields->Read("vocab_size", &config->vocab_size);
  fields->Read("num_attention_heads", &config->num_attention_heads);
  fields->Read("head_dim", &config->head_dim);
  fields->Read("intermediate_size", &config->intermediate_size);
  fields->Read("max_position_embeddings", &config->max_position_embeddings);
  fields->Read("rope_theta", &config->rope_theta);
  fields->Read("rms_norm_eps", &config->rms_norm_eps);
  fields->Read("dropout", &config->dropout);
  fields->Read("flash_attn", &config->flash_attention);
  fields->Read("flash_attention", &config->flash_attention);
  fields->Read("tie_word_embeddings", &config->tie_word_embeddings);
}

Json RopeScalingToJson(const RopeScaling& scaling) {
  return {{"rope_type", scaling.type == RopeScaling::Type::kYarn ? "yarn" : "minimind"},
          {"original_max_position_embeddings", scaling.original_max_position_embeddings},
          {"factor", scaling.factor},
          {"beta_fast", scaling.beta_fast},
          {"beta_slow", scaling.beta_slow},
          {"attention_factor", scaling.attention_factor}};
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, std::vector<std::string>* warnings) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: must be an object, it is ", json.type_name()));
  }
  std::vector<std::string> problems;
  std::vector<std::string> unread;
  FieldReader fields(json, "", &problems);
  ModelConfig config;
  std::string type = "minimind";
  fields.Read("model_type", &type);
  const bool hugging_face = type == "llama" || type == "qwen3";
  if (hugging_face) {
    ApplyHuggingFaceDefaults(type == "qwen3", &fields, &config);
  } else if (type != "minimind") {
    fields.Problem("model_type",
                   absl::StrCat("\"", type, "\" is not supported; minimind, llama and qwen3 are"));
  } else {
    fields.Read("qk_norm", &config.qk_norm);
    fields.Read("inference_rope_scaling", &config.inference_rope_scaling);
    ReadMoe(&fields, &config);
  }
  ReadScalars(&fields, &config);
  const bool has_key = json.contains("num_key_value_heads");
  if (!fields.Read("num_key_value_heads", &config.num_key_value_heads) &&
      (has_key || hugging_face)) {
    config.num_key_value_heads = config.num_attention_heads;
  }
  ReadTokenIds(&fields, &config);
  RefuseUnsupported(&fields);
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* scaling = fields.Find(name);
    if (scaling != nullptr) ReadRopeScaling(*scaling, hugging_face, &problems, &unread, &config);
  }
  if (config.rope_scaling.has_value()) config.inference_rope_scaling = false;  // explicit wins
  if (problems.empty()) {
    for (const ModelConfigProblem& problem : ValidateModelConfig(config)) {
      problems.push_back(absl::StrCat(problem.field, " ", problem.reason));
    }
  }
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: ", absl::StrJoin(problems, "; ")));
  }
  config.head_dim = config.HeadDim();
  config.intermediate_size = config.IntermediateSize();
  for (std::string& name : fields.Unread()) unread.push_back(std::move(name));
  for (const std::string& name : unread) {
    const bool silent =
        std::find(kSilentFields.begin(), kSilentFields.end(), name) != kSilentFields.end();
    if (!silent && warnings != nullptr) {
      warnings->push_back(absl::StrCat("config.json: field `", name, "` is not used"));
    }
  }
  return config;
}

Json ModelConfigToJson(const ModelConfig& config) {
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  const bool own_scaling = scaling.has_value() && scaling->type == RopeScaling::Type::kMinimind;
  const bool plain = !config.use_moe && !own_scaling;
  const std::string type = !plain ? "minimind" : config.qk_norm ? "qwen3" : "llama";
  const std::string architecture = !plain           ? "MiniMindForCausalLM"
                                   : config.qk_norm ? "Qwen3ForCausalLM"
                                                    : "LlamaForCausalLM";
  Json json = {{"model_type", type},
               {"architectures", Json::array({architecture})},
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
               {"attention_bias", false},
               {"dropout", config.dropout},
               {"flash_attention", config.flash_attention},
               {"bos_token_id", config.bos_token_id},
               {"eos_token_id", config.eos_token_id},
               {"pad_token_id", config.pad_token_id},
               {"tie_word_embeddings", config.tie_word_embeddings}};
  if (config.rope_scaling.has_value()) {
    json["rope_scaling"] = RopeScalingToJson(*config.rope_scaling);
  }
  if (type == "llama") json["mlp_bias"] = false;
  if (plain) return json;
  json["qk_norm"] = config.qk_norm;
  json["inference_rope_scaling"] = config.inference_rope_scaling;
  json["use_moe"] = config.use_moe;
  json["num_experts_per_tok"] = config.num_experts_per_tok;
  json["n_routed_experts"] = config.n_routed_experts;
  json["n_shared_experts"] = config.n_shared_experts;
  json["scoring_func"] = "softmax";
  json["aux_loss_alpha"] = config.aux_loss_alpha;
  json["seq_aux"] = config.seq_aux;
  json["norm_topk_prob"] = config.norm_topk_prob;
  return json;
}

}  // namespace mindforge
