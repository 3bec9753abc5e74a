// The shape of a model from the tensors of a file that says nothing else.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/config_json.h"
#include "worker/formats/expected_tensors.h"
#include "worker/formats/import.h"
#include "worker/formats/json_file.h"

namespace mindforge {
namespace {

constexpr int64_t kMaxCount = 4096;         // of layers or experts
constexpr int64_t kReferenceHeads = 8;      // of every published MiniMind
constexpr double kMiniMind3Epsilon = 1e-6;  // the releases with qk_norm

using Shapes = TensorMap;

absl::Status No(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("these are no MiniMind model's tensors: ", what));
}

// The shape of a matrix; an error when there is none of that name.
absl::StatusOr<std::pair<int64_t, int64_t>> Matrix(const Shapes& shapes, const std::string& name) {
  const auto it = shapes.find(name);
  if (it == shapes.end()) return No(absl::StrCat(name, " is missing"));
  const std::vector<int64_t>& shape = it->second->shape;
  if (shape.size() == 2 && shape[0] > 0 && shape[1] > 0) return std::pair(shape[0], shape[1]);
  return No(absl::StrCat(name, " has shape ", ShapeToString(shape)));
}

// How many of prefix0suffix, prefix1suffix … there are.
int64_t Count(const Shapes& shapes, const std::string& prefix, const std::string& suffix) {
  int64_t count = 0;
  while (count < kMaxCount && shapes.contains(absl::StrCat(prefix, count, suffix))) ++count;
  return count;
}

absl::Status InferAttention(const Shapes& shapes, const ShapeHints& hints, ModelConfig* config,
                            std::vector<std::string>* notes) {
  const std::string attention = "model.layers.0.self_attn.";
  ASSIGN_OR_RETURN(const auto query, Matrix(shapes, attention + "q_proj.weight"));
  ASSIGN_OR_RETURN(const auto key, Matrix(shapes, attention + "k_proj.weight"));
  const auto norm = shapes.find(attention + "q_norm.weight");
  config->qk_norm = norm != shapes.end();
  if (config->qk_norm && norm->second->shape.size() == 1 && norm->second->shape[0] > 0) {
    config->head_dim = norm->second->shape[0];
    config->num_attention_heads = query.first / config->head_dim;
    if (hints.num_attention_heads.value_or(config->num_attention_heads) !=
        config->num_attention_heads) {
      return absl::InvalidArgumentError(absl::StrCat(
          "num_attention_heads ", *hints.num_attention_heads, " does not fit head_dim ",
          config->head_dim, ", which q_norm shows: it is ", config->num_attention_heads));
    }
  } else {
    config->num_attention_heads = hints.num_attention_heads.value_or(kReferenceHeads);
    if (!hints.num_attention_heads.has_value()) {
      notes->push_back(absl::StrCat("assumed: num_attention_heads ", kReferenceHeads,
                                    " (--num-attention-heads says otherwise)"));
    }
    config->head_dim = query.first / std::max<int64_t>(config->num_attention_heads, 1);
  }
  if (config->num_attention_heads < 1 || config->head_dim < 1 ||
      config->num_attention_heads * config->head_dim != query.first ||
      key.first % config->head_dim != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        config->num_attention_heads, " attention heads do not fit q_proj of ", query.first,
        " rows and k_proj of ", key.first, "; say how many: --num-attention-heads"));
  }
  config->num_key_value_heads = key.first / config->head_dim;
  return absl::OkStatus();
}

// MiniMind-3's where q and k are normalised and no expert is shared.
void InferExperts(const Shapes& shapes, const ShapeHints& hints, ModelConfig* config,
                  std::vector<std::string>* notes) {
  const std::string mlp = "model.layers.0.mlp.";
  config->n_routed_experts = Count(shapes, mlp + "experts.", ".gate_proj.weight");
  config->n_shared_experts = Count(shapes, mlp + "shared_experts.", ".gate_proj.weight");
  if (config->qk_norm && config->n_shared_experts == 0) {
    config->moe_family = MoeFamily::kMinimind3;
    config->seq_aux = false;
    config->num_experts_per_tok = 1;
    config->aux_loss_alpha = 5e-4;
    notes->push_back(
        "assumed: MiniMind-3's mixture of experts, by q_norm and experts none of which is shared "
        "(--config says otherwise)");
  }
  config->num_experts_per_tok = hints.num_experts_per_tok.value_or(config->num_experts_per_tok);
  if (!hints.num_experts_per_tok.has_value()) {
    notes->push_back(absl::StrCat("assumed: num_experts_per_tok ", config->num_experts_per_tok,
                                  " (--num-experts-per-tok says otherwise)"));
  }
}

absl::Status InferMlp(const Shapes& shapes, const ShapeHints& hints, ModelConfig* config,
                      std::vector<std::string>* notes) {
  const std::string mlp = "model.layers.0.mlp.";
  config->use_moe = shapes.contains(mlp + "gate.weight");
  if (config->use_moe) InferExperts(shapes, hints, config, notes);
  const std::string gate =
      mlp + (config->use_moe ? "experts.0.gate_proj.weight" : "gate_proj.weight");
  ASSIGN_OR_RETURN(const auto rows, Matrix(shapes, gate));
  config->intermediate_size = rows.first;
  if (config->moe_family == MoeFamily::kMinimind3) config->moe_intermediate_size = rows.first;
  return absl::OkStatus();
}

template <typename T>
void Take(const std::optional<T>& hint, const char* field, const char* flag, T* value,
          std::vector<std::string>* notes) {
  if (hint.has_value()) {
    *value = *hint;
  } else {
    notes->push_back(absl::StrCat("assumed: ", field, " ", *value, " (", flag, " says otherwise)"));
  }
}

absl::StatusOr<ModelConfig> ReadConfig(const std::string& path, const Shapes& shapes,
                                       std::vector<std::string>* notes) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonFile(path));
  return ReadModelConfig(json, ShownBy(FinderIn(shapes)), notes);
}

}  // namespace

absl::StatusOr<ModelConfig> InferModelConfig(const std::vector<TensorView>& tensors,
                                             const ShapeHints& hints,
                                             std::vector<std::string>* notes) {
  Shapes shapes;
  for (const TensorView& view : tensors) shapes.emplace(view.name, &view);
  if (!hints.config_path.empty()) return ReadConfig(hints.config_path, shapes, notes);
  ModelConfig config;
  ASSIGN_OR_RETURN(const auto embedding, Matrix(shapes, "model.embed_tokens.weight"));
  config.vocab_size = embedding.first;
  config.hidden_size = embedding.second;
  config.num_hidden_layers = Count(shapes, "model.layers.", ".self_attn.q_proj.weight");
  if (config.num_hidden_layers == 0) return No("model.layers.0 is missing");
  RETURN_IF_ERROR(InferAttention(shapes, hints, &config, notes));
  RETURN_IF_ERROR(InferMlp(shapes, hints, &config, notes));
  config.tie_word_embeddings = !ShownBy(FinderIn(shapes)).own_head;
  if (config.qk_norm) config.rms_norm_eps = kMiniMind3Epsilon;
  Take(hints.rope_theta, "rope_theta", "--rope-theta", &config.rope_theta, notes);
  Take(hints.rms_norm_eps, "rms_norm_eps", "--rms-norm-eps", &config.rms_norm_eps, notes);
  Take(hints.max_position_embeddings, "max_position_embeddings", "--max-position-embeddings",
       &config.max_position_embeddings, notes);
  for (const ModelConfigProblem& problem : ValidateModelConfig(config)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model's ", problem.field, " ", problem.reason, "; give its config.json: --config"));
  }
  return config;
}

}  // namespace mindforge
