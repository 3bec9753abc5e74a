#include "worker/formats/gguf_model.h"

#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/formats/gguf_tokenizer.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr int64_t kQuantizationVersion = 2;
// What llama.cpp takes for YaRN where the architecture's file cannot say.
constexpr double kYarnBetaFast = 32;
constexpr double kYarnBetaSlow = 1;

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kModelNames = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};
constexpr std::string_view kLayerPrefix = "model.layers.";
constexpr std::string_view kBlockPrefix = "blk.";
constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kLayerNames = {{
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"input_layernorm.weight", "attn_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
}};

// "prefix7.rest" -> "other7.mapped" with the tables above, in either direction; "" when none fits.
std::string MapName(std::string_view name, bool to_gguf) {
  for (const auto& [ours, theirs] : kModelNames) {
    if (name == (to_gguf ? ours : theirs)) return std::string(to_gguf ? theirs : ours);
  }
  const std::string_view prefix = to_gguf ? kLayerPrefix : kBlockPrefix;
  if (!name.starts_with(prefix)) return "";
  name.remove_prefix(prefix.size());
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos || dot == 0) return "";
  const std::string_view number = name.substr(0, dot);
  const std::string_view rest = name.substr(dot + 1);
  if (number.find_first_not_of("0123456789") != std::string_view::npos) return "";
  for (const auto& [ours, theirs] : kLayerNames) {
    if (rest != (to_gguf ? ours : theirs)) continue;
    return absl::StrCat(std::string(to_gguf ? kBlockPrefix : kLayerPrefix), std::string(number),
                        ".", std::string(to_gguf ? theirs : ours));
  }
  return "";
}

// llama.cpp's `llama` turns neighbouring pairs where we turn halves: row (p, i) of a head, p of the
// two halves, becomes row (i, p). The rows of `view` in that order, or back.
std::string ReorderRows(const TensorView& view, int64_t heads, bool to_gguf) {
  const int64_t rows = view.shape[0];
  const auto row_bytes = static_cast<size_t>(view.bytes / rows);
  const int64_t dim = rows / heads;
  const int64_t half = dim / 2;
  std::string bytes(static_cast<size_t>(view.bytes), '\0');
  const auto* const from = static_cast<const char*>(view.data);
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t p = 0; p < 2; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t ours = head * dim + p * half + i;
        const int64_t theirs = head * dim + 2 * i + p;
        const int64_t source = to_gguf ? ours : theirs;
        const int64_t target = to_gguf ? theirs : ours;
        std::memcpy(bytes.data() + target * row_bytes, from + source * row_bytes, row_bytes);
      }
    }
  }
  return bytes;
}

// How many heads' rows of `name` are reordered; 0: none.
int64_t ReorderedHeads(std::string_view name, const ModelConfig& config) {
  if (config.qk_norm) return 0;  // `qwen3` turns halves, as we do
  if (name.ends_with("self_attn.q_proj.weight")) return config.num_attention_heads;
  if (name.ends_with("self_attn.k_proj.weight")) return config.num_key_value_heads;
  return 0;
}

// llama.cpp multiplies YaRN's cos and sin by 1 + 0.1 ln(factor) of its own accord.
double YarnMultiplier(double factor) { return 1 + 0.1 * std::log(factor); }

void AddShape(const ModelConfig& config, const std::string& arch, GgufMetadata* metadata) {
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

int64_t FileType(DType dtype) { return dtype == DType::kF32 ? 0 : dtype == DType::kF16 ? 1 : 32; }

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

 private:
  // 1e-5 again of the float nearest to it.
  static double Shortest(double value) {
    double shortest = value;
    return absl::SimpleAtod(absl::StrFormat("%.7g", value), &shortest) ? shortest : value;
  }

  Json Find(const char* key) const {
    return metadata_.value(absl::StrCat(arch_, ".", key), Json());
  }

  const Json& metadata_;
  const std::string arch_;
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

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  const Json& metadata = file.metadata();
  const Json arch = metadata.value("general.architecture", Json());
  if (arch != "llama" && arch != "qwen3") {
    return absl::InvalidArgumentError(
        absl::StrCat("general.architecture is ", Shown(arch), "; llama and qwen3 can be imported"));
  }
  KeyReader keys(metadata, arch.get<std::string>());
  ModelConfig config;
  config.qk_norm = arch == "qwen3";
  config.num_hidden_layers = keys.Integer("block_count");
  config.max_position_embeddings = keys.Integer("context_length");
  config.hidden_size = keys.Integer("embedding_length");
  config.intermediate_size = keys.Integer("feed_forward_length");
  config.num_attention_heads = keys.Integer("attention.head_count");
  config.num_key_value_heads = keys.Integer("attention.head_count_kv", config.num_attention_heads);
  config.head_dim = keys.Integer("attention.key_length", 0);
  config.rope_theta = keys.Number("rope.freq_base", 10000.0);
  config.rms_norm_eps = keys.Number("attention.layer_norm_rms_epsilon");
  if (keys.Integer("expert_count", 0) > 0) keys.Fail("expert_count", "is not supported");
  ReadScaling(&keys, &config);
  RETURN_IF_ERROR(keys.status());
  config.tie_word_embeddings = true;
  for (const TensorView& tensor : file.tensors()) {
    if (tensor.name == "output.weight") config.tie_word_embeddings = false;
    if (tensor.name == "token_embd.weight" && tensor.shape.size() == 2) {
      config.vocab_size = tensor.shape[0];
    }
  }
  const auto id = [&metadata](const char* key, int64_t otherwise) {
    const Json value = metadata.value(absl::StrCat("tokenizer.ggml.", key), Json());
    return value.is_number_unsigned() ? value.get<int64_t>() : otherwise;
  };
  config.bos_token_id = id("bos_token_id", 1);
  config.eos_token_id = id("eos_token_id", 2);
  config.pad_token_id = id("padding_token_id", 0);
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
  RETURN_IF_ERROR(keys.status());
  return config;
}

}  // namespace

absl::Status CheckGgufExport(const ModelConfig& config) {
  if (config.use_moe) {
    return absl::InvalidArgumentError(
        "a mixture of experts cannot be exported as gguf: llama.cpp has no architecture with "
        "MiniMind's router and shared experts; export it as hf or pth");
  }
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

absl::StatusOr<FileDigest> WriteGgufModel(const std::string& path, const ModelFolder& folder,
                                          const std::string& model_name, DType dtype) {
  const ModelConfig& config = folder.config;
  RETURN_IF_ERROR(CheckGgufExport(config));
  if (folder.tokenizer_path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.path, " has no tokenizer.json, which a GGUF file must hold; copy it there first"));
  }
  const std::string arch = config.qk_norm ? "qwen3" : "llama";
  GgufMetadata metadata;
  metadata.Text("general.architecture", arch);
  metadata.Text("general.type", "model");
  metadata.Text("general.name", model_name);
  metadata.Uint32("general.file_type", FileType(dtype));
  metadata.Uint32("general.quantization_version", kQuantizationVersion);
  AddShape(config, arch, &metadata);
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, ReadTokenizerFiles(folder.tokenizer_path));
  RETURN_IF_ERROR(AddGgufTokenizer(tokenizer.tokenizer, tokenizer.config, config,
                                   tokenizer.chat_template, &metadata));
  std::deque<std::string> reordered;
  std::vector<GgufTensor> tensors;
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    GgufTensor tensor{*folder.Find(expected.name), expected.shape.size() < 2 ? DType::kF32 : dtype};
    if (const int64_t heads = ReorderedHeads(expected.name, config); heads > 0) {
      tensor.view.data =
          reordered.emplace_back(ReorderRows(tensor.view, heads, /*to_gguf=*/true)).data();
    }
    tensor.view.name = MapName(expected.name, /*to_gguf=*/true);
    tensors.push_back(std::move(tensor));
  }
  return WriteGguf(path, metadata, tensors);
}

absl::StatusOr<GgufModel> ReadGgufModel(const std::string& path) {
  GgufModel model;
  ASSIGN_OR_RETURN(model.file, GgufFile::Open(path));
  absl::StatusOr<ModelConfig> config = ConfigFromGguf(*model.file);
  RETURN_IF_ERROR(config.status()) << path;
  model.config = *std::move(config);
  for (const TensorView& stored : model.file->tensors()) {
    TensorView view = stored;
    view.name = MapName(stored.name, /*to_gguf=*/false);
    if (view.name.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor \"", stored.name, "\" has no place in a MiniMind, llama or qwen3 model"));
    }
    const int64_t heads = ReorderedHeads(view.name, model.config);
    if (heads > 0 && view.shape.size() == 2 && view.shape[0] > 0) {
      if (view.shape[0] != heads * model.config.HeadDim()) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": tensor \"", stored.name, "\" does not have the rows of ", heads, " heads"));
      }
      view.data = model.reordered.emplace_back(ReorderRows(view, heads, /*to_gguf=*/false)).data();
    }
    model.tensors.push_back(std::move(view));
  }
  absl::StatusOr<std::map<std::string, std::string>> tokenizer =
      TokenizerFromGguf(model.file->metadata());
  model.tokenizer_status = tokenizer.status();
  if (tokenizer.ok()) model.tokenizer = *std::move(tokenizer);
  return model;
}

}  // namespace mindforge
