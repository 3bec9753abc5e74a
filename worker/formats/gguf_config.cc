#include "worker/formats/gguf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/formats/gguf_model.h"
#include "worker/formats/gguf_tokenizer.h"
#include "worker/formats/rope_json.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

// What llama.cpp takes for YaRN where the architecture's file cannot say.
constexpr double kYarnBetaFast = 32;
constexpr double kYarnBetaSlow = 1;

// llama.cpp multiplies YaRN's cos and sin by 1 + 0.1 ln(factor) of its own accord.
double YarnMultiplier(double factor) { return 1 + 0.1 * std::log(factor); }

// Keys that change nothing, and others at the values where they do not; 0 and false never do.
constexpr std::array<std::string_view, 4> kSilentKeys = {"vocab_size", "rope.scaling.finetuned",
                                                         "nextn_predict_layers", "pooling_type"};
constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kInertKeys = {{
    {"attention.causal", "true"},
    {"tensor_data_layout", "\"Meta AI original pth\""},
    {"expert_group_count", "1"},
    {"expert_weights_norm", "true"},  // as the architecture has it anyway
    {"expert_gating_func", "1"},      // softmax
}};

// Reads a file's keys; the first that is missing or of a wrong type is kept.
class KeyReader {
 public:
  KeyReader(const Json& metadata, std::string arch) : metadata_(metadata), arch_(std::move(arch)) {}

  int64_t Integer(const char* key, std::optional<int64_t> otherwise = std::nullopt) {
    const Json value = Find(key);
    if (value.is_null() && otherwise.has_value()) return *otherwise;
    if (value.is_number_integer() && value.get<uint64_t>() <= uint64_t{1} << 32) {
      return value.get<int64_t>();
    }
    Fail(key, "must be a size");
    return 0;
  }

  double Number(const char* key, std::optional<double> otherwise = std::nullopt) {
    const Json value = Find(key);
    if (value.is_null() && otherwise.has_value()) return *otherwise;
    if (value.is_number()) return Shortest(value.get<double>());
    Fail(key, "must be a number");
    return 0;
  }

  std::string Text(const char* key) {
    const Json value = Find(key);
    return value.is_string() ? value.get<std::string>() : "";
  }

  void Fail(const char* key, const std::string& what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat("metadata ", arch_, ".", key, " ", what));
  }
  const absl::Status& status() const { return status_; }

  // What the architecture's keys say beside those that were read, and that changes something.
  void FailOthers() {
    const std::string prefix = arch_ + ".";
    for (const auto& [name, value] : metadata_.items()) {
      if (!name.starts_with(prefix)) continue;
      const std::string key = name.substr(prefix.size());
      if (read_.contains(key) || IsInert(key, value)) continue;
      Fail(key.c_str(), absl::StrCat("is ", Shown(value), ", which is not supported"));
    }
  }

 private:
  static bool IsInert(const std::string& key, const Json& value) {
    if (std::find(kSilentKeys.begin(), kSilentKeys.end(), key) != kSilentKeys.end()) return true;
    const auto one = std::find_if(kInertKeys.begin(), kInertKeys.end(),
                                  [&](const auto& inert) { return inert.first == key; });
    if (one != kInertKeys.end() && value.dump() == one->second) return true;
    if (value.is_number()) return value.get<double>() == 0;
    return value.is_boolean() && !value.get<bool>();
  }

  // 1e-5 again of the float nearest to it.
  static double Shortest(double value) {
    double shortest = value;
    return absl::SimpleAtod(absl::StrFormat("%.7g", value), &shortest) ? shortest : value;
  }

  Json Find(const char* key) {
    read_.insert(key);
    return metadata_.value(absl::StrCat(arch_, ".", key), Json());
  }

  const Json& metadata_;
  const std::string arch_;
  std::set<std::string> read_;
  absl::Status status_;
};

void ReadScaling(KeyReader* keys, ModelConfig* config) {
  const std::string type = keys->Text("rope.scaling.type");
  if (type.empty() || type == "none") return;
  if (type != "yarn") {
    return keys->Fail("rope.scaling.type", absl::StrCat("\"", type, "\" is not supported"));
  }
  RopeScaling& scaling = config->rope_scaling.emplace();
  scaling.type = RopeScaling::Type::kYarn;
  scaling.factor = keys->Number("rope.scaling.factor");
  scaling.beta_fast = keys->Number("rope.scaling.yarn_beta_fast", kYarnBetaFast);
  scaling.beta_slow = keys->Number("rope.scaling.yarn_beta_slow", kYarnBetaSlow);
  scaling.original_max_position_embeddings =
      keys->Integer("rope.scaling.original_context_length", config->max_position_embeddings);
  if (!(scaling.factor >= 1)) return keys->Fail("rope.scaling.factor", "must be at least 1");
  const double attention = keys->Number("rope.scaling.attn_factor", 1);
  constexpr double kDigits = 1e6;  // what is left of them after two roundings to float
  scaling.attention_factor =
      std::round(attention * YarnMultiplier(scaling.factor) * kDigits) / kDigits;
}

// llama.cpp divides the chosen experts' weights by their sum, whatever the file says.
void ReadExperts(KeyReader* keys, ModelConfig* config) {
  config->use_moe = true;
  config->moe_family = MoeFamily::kMinimind3;
  config->seq_aux = false;
  config->n_shared_experts = 0;
  config->norm_topk_prob = true;
  config->aux_loss_alpha = 1e-3;  // transformers' default; of training alone
  config->n_routed_experts = keys->Integer("expert_count");
  config->num_experts_per_tok = keys->Integer("expert_used_count");
  config->moe_intermediate_size = keys->Integer("expert_feed_forward_length");
  if (const double scale = keys->Number("expert_weights_scale", 0.0); scale != 0 && scale != 1) {
    keys->Fail("expert_weights_scale", absl::StrCat("is ", scale, ", which is not supported"));
  }
}

void ReadTokens(const GgufFile& file, ModelConfig* config) {
  config->tie_word_embeddings = true;
  for (const TensorView& tensor : file.tensors()) {
    if (tensor.name == "output.weight") config->tie_word_embeddings = false;
    if (tensor.name == "token_embd.weight" && tensor.shape.size() == 2) {
      config->vocab_size = tensor.shape[0];
    }
  }
  const auto id = [&file](const char* key, int64_t otherwise) {
    const Json value = file.metadata().value(absl::StrCat("tokenizer.ggml.", key), Json());
    return value.is_number_unsigned() ? value.get<int64_t>() : otherwise;
  };
  config->bos_token_id = id("bos_token_id", 1);
  config->eos_token_id = id("eos_token_id", 2);
  config->pad_token_id = id("padding_token_id", 0);
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  const Json& metadata = file.metadata();
  const Json arch = metadata.value("general.architecture", Json());
  if (arch != "llama" && arch != "qwen3" && arch != "qwen3moe") {
    return absl::InvalidArgumentError(absl::StrCat("general.architecture is ", Shown(arch),
                                                   "; llama, qwen3 and qwen3moe can be imported"));
  }
  KeyReader keys(metadata, arch.get<std::string>());
  ModelConfig config;
  config.qk_norm = arch != "llama";
  config.num_hidden_layers = keys.Integer("block_count");
  config.max_position_embeddings = keys.Integer("context_length");
  config.hidden_size = keys.Integer("embedding_length");
  config.intermediate_size = arch == "qwen3moe" ? keys.Integer("feed_forward_length", 0)
                                                : keys.Integer("feed_forward_length");
  config.num_attention_heads = keys.Integer("attention.head_count");
  config.num_key_value_heads = keys.Integer("attention.head_count_kv", config.num_attention_heads);
  config.head_dim = keys.Integer("attention.key_length", 0);
  config.rope_theta = keys.Number("rope.freq_base", 10000.0);
  config.rms_norm_eps = keys.Number("attention.layer_norm_rms_epsilon");
  if (arch == "qwen3moe") ReadExperts(&keys, &config);
  ReadScaling(&keys, &config);
  RETURN_IF_ERROR(keys.status());
  ReadTokens(file, &config);
  for (const ModelConfigProblem& problem : ValidateModelConfig(config)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the metadata's ", problem.field, " ", problem.reason));
  }
  for (const char* const key : {"rope.dimension_count", "attention.value_length"}) {
    if (keys.Integer(key, config.HeadDim()) == config.HeadDim()) continue;
    keys.Fail(key, absl::StrCat("is not the ", config.HeadDim(),
                                " of a head; such models are not "
                                "supported"));
  }
  if (!HasStandardYarnRamp(config)) {
    keys.Fail("rope.scaling.type",
              "is yarn up to the last frequency, where llama.cpp computes another ramp than this "
              "project; it is not supported");
  }
  keys.FailOthers();
  RETURN_IF_ERROR(keys.status());
  return config;
}

namespace {

absl::Status CheckMoe(const ModelConfig& config) {
  if (!config.use_moe) return absl::OkStatus();
  if (config.moe_family != MoeFamily::kMinimind3) {
    return absl::InvalidArgumentError(
        "this mixture of experts cannot be exported as gguf: llama.cpp has no architecture with "
        "MiniMind2's router and shared experts; export it as hf or pth");
  }
  if (!config.qk_norm) {
    return absl::InvalidArgumentError(
        "this mixture of experts cannot be exported as gguf: llama.cpp's qwen3moe normalises q and "
        "k, which this model (qk_norm: false) does not; export it as hf or pth");
  }
  if (!config.norm_topk_prob) {
    return absl::InvalidArgumentError(
        "this mixture of experts cannot be exported as gguf: llama.cpp's qwen3moe divides the "
        "chosen experts' weights by their sum, which this model (norm_topk_prob: false) does not; "
        "export it as hf or pth");
  }
  return absl::OkStatus();
}

}  // namespace

std::string GgufArchitecture(const ModelConfig& config) {
  return config.use_moe ? "qwen3moe" : config.qk_norm ? "qwen3" : "llama";
}

void AddGgufShape(const ModelConfig& config, const std::string& arch, GgufMetadata* metadata) {
  const auto put = [&](const char* key, int64_t value) {
    metadata->Uint32(absl::StrCat(arch, ".", key), value);
  };
  put("block_count", config.num_hidden_layers);
  put("context_length", config.max_position_embeddings);
  put("embedding_length", config.hidden_size);
  put("feed_forward_length", config.IntermediateSize());
  put("attention.head_count", config.num_attention_heads);
  put("attention.head_count_kv", config.num_key_value_heads);
  put("attention.key_length", config.HeadDim());
  put("attention.value_length", config.HeadDim());
  put("rope.dimension_count", config.HeadDim());
  put("vocab_size", config.vocab_size);
  if (config.use_moe) {
    put("expert_count", config.n_routed_experts);
    put("expert_used_count", config.num_experts_per_tok);
    put("expert_feed_forward_length", config.MoeIntermediateSize());
  }
  metadata->Float32(arch + ".rope.freq_base", config.rope_theta);
  metadata->Float32(arch + ".attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  if (!scaling.has_value()) return;
  metadata->Text(arch + ".rope.scaling.type", "yarn");
  metadata->Float32(arch + ".rope.scaling.factor", scaling->factor);
  metadata->Float32(arch + ".rope.scaling.attn_factor",
                    scaling->attention_factor / YarnMultiplier(scaling->factor));
  put("rope.scaling.original_context_length", scaling->original_max_position_embeddings);
}

absl::Status CheckGgufExport(const ModelConfig& config) {
  RETURN_IF_ERROR(CheckMoe(config));
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  if (!scaling.has_value()) return absl::OkStatus();
  if (scaling->type == RopeScaling::Type::kMinimind) {
    return absl::InvalidArgumentError(
        "MiniMind's own RoPE scaling cannot be exported as gguf: llama.cpp does not compute it; "
        "remove rope_scaling and inference_rope_scaling from config.json, or set rope_scaling to "
        "type yarn (other frequencies, so try the model's answers), or export as pth");
  }
  if (scaling->beta_fast != kYarnBetaFast || scaling->beta_slow != kYarnBetaSlow) {
    return absl::InvalidArgumentError(absl::StrCat(
        "YaRN with beta_fast ", scaling->beta_fast, " and beta_slow ", scaling->beta_slow,
        " cannot be exported as gguf: llama.cpp computes with ", kYarnBetaFast, " and ",
        kYarnBetaSlow, " for this architecture; export as hf or pth"));
  }
  return absl::OkStatus();
}

}  // namespace mindforge
