#include "worker/formats/expected_tensors.h"

#include <algorithm>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "worker/formats/pickle.h"
#include "worker/formats/tensor_names.h"

namespace mindforge {
namespace {

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

void AddMlp(const std::string& prefix, int64_t hidden, int64_t intermediate,
            std::vector<ExpectedTensor>* out) {
  out->push_back({prefix + "gate_proj.weight", {intermediate, hidden}});
  out->push_back({prefix + "up_proj.weight", {intermediate, hidden}});
  out->push_back({prefix + "down_proj.weight", {hidden, intermediate}});
}

void AddLayer(const ModelConfig& config, int64_t layer, std::vector<ExpectedTensor>* out) {
  const int64_t hidden = config.hidden_size;
  const int64_t dim = config.HeadDim();
  const int64_t query = config.num_attention_heads * dim;
  const int64_t key = config.num_key_value_heads * dim;
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.";
  out->push_back({attention + "q_proj.weight", {query, hidden}});
  out->push_back({attention + "k_proj.weight", {key, hidden}});
  out->push_back({attention + "v_proj.weight", {key, hidden}});
  out->push_back({attention + "o_proj.weight", {hidden, query}});
  if (config.qk_norm) {
    out->push_back({attention + "q_norm.weight", {dim}});
    out->push_back({attention + "k_norm.weight", {dim}});
  }
  out->push_back({prefix + "input_layernorm.weight", {hidden}});
  out->push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  const std::string mlp = prefix + "mlp.";
  if (!config.use_moe) return AddMlp(mlp, hidden, config.IntermediateSize(), out);
  for (int64_t e = 0; e < config.n_routed_experts; ++e) {
    AddMlp(absl::StrCat(mlp, "experts.", e, "."), hidden, config.MoeIntermediateSize(), out);
  }
  out->push_back({mlp + "gate.weight", {config.n_routed_experts, hidden}});
  for (int64_t e = 0; e < config.n_shared_experts; ++e) {
    AddMlp(absl::StrCat(mlp, "shared_experts.", e, "."), hidden, config.MoeIntermediateSize(), out);
  }
}

// Leaving a weight out gives other answers than who trained it has.
void AddUnused(const std::vector<ExpectedTensor>& expected, const TensorMap& tensors,
               std::vector<std::string>* problems) {
  std::unordered_set<std::string_view> known = {kHead};
  for (const ExpectedTensor& one : expected) known.insert(one.name);
  std::vector<std::string> unused;
  for (const auto& [name, tensor] : tensors) {
    if (!known.contains(name)) unused.push_back(ShownText(name));
  }
  if (unused.empty()) return;
  std::sort(unused.begin(), unused.end());
  problems->push_back(absl::StrCat(unused.size(),
                                   unused.size() == 1 ? " tensor has" : " tensors have",
                                   " no place in the model: ", ListSome(unused, ", ")));
}

}  // namespace

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> expected;
  const int64_t hidden = config.hidden_size;
  expected.push_back({kEmbedding, {config.vocab_size, hidden}});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) AddLayer(config, i, &expected);
  expected.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) expected.push_back({kHead, {config.vocab_size, hidden}});
  return expected;
}

FindTensor FinderIn(const TensorMap& tensors) {
  return [&tensors](std::string_view name) -> const TensorView* {
    const auto it = tensors.find(std::string(name));
    return it == tensors.end() ? nullptr : it->second;
  };
}

std::vector<std::string> Misfits(const std::vector<ExpectedTensor>& expected,
                                 const TensorMap& tensors) {
  std::vector<std::string> problems;
  AddUnused(expected, tensors, &problems);
  for (const ExpectedTensor& one : expected) {
    const auto it = tensors.find(one.name);
    if (it == tensors.end()) {
      problems.push_back(absl::StrCat(one.name, " is missing"));
    } else if (it->second->shape != one.shape) {
      problems.push_back(absl::StrCat(one.name, " has shape ", ShapeToString(it->second->shape),
                                      ", the configuration asks for ", ShapeToString(one.shape)));
    }
  }
  return problems;
}

}  // namespace mindforge
