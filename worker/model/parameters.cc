// The canonical list of a model's parameters; layout.h places the same by role.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/model/layout.h"
#include "worker/model/minimind.h"

namespace mindforge {
namespace {

// Appends parameters one behind the other.
class ParameterList {
 public:
  explicit ParameterList(const ModelSizes& sizes) : s_(sizes) {}

  void Add(std::string name, std::vector<int64_t> shape) {
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    views_.push_back({std::move(name), std::move(shape), offset_, size});
    offset_ += size;
  }

  void AddLayer(const std::string& prefix) {
    const int64_t kv = s_.kv_heads * s_.head_dim;
    Add(prefix + "self_attn.q_proj.weight", {s_.attention, s_.hidden});
    Add(prefix + "self_attn.k_proj.weight", {kv, s_.hidden});
    Add(prefix + "self_attn.v_proj.weight", {kv, s_.hidden});
    Add(prefix + "self_attn.o_proj.weight", {s_.hidden, s_.attention});
    if (s_.qk_norm) {
      Add(prefix + "self_attn.q_norm.weight", {s_.head_dim});
      Add(prefix + "self_attn.k_norm.weight", {s_.head_dim});
    }
    Add(prefix + "input_layernorm.weight", {s_.hidden});
    Add(prefix + "post_attention_layernorm.weight", {s_.hidden});
    for (const std::string& mlp : Mlps(prefix)) {
      if (mlp.ends_with(".gate")) {
        Add(mlp + ".weight", {s_.experts, s_.hidden});
        continue;
      }
      Add(mlp + ".gate_proj.weight", {s_.inner, s_.hidden});
      Add(mlp + ".up_proj.weight", {s_.inner, s_.hidden});
      Add(mlp + ".down_proj.weight", {s_.hidden, s_.inner});
    }
  }

  void AddAdapters(const std::string& prefix) {
    const int64_t kv = s_.kv_heads * s_.head_dim;
    const std::string attention = prefix + "self_attn.";
    AddAdapter(attention + "q_proj", s_.attention);
    AddAdapter(attention + "k_proj", kv);
    AddAdapter(attention + "v_proj", kv);
    AddAdapter(attention + "o_proj", s_.attention);
    for (const std::string& mlp : Mlps(prefix)) {
      if (mlp.ends_with(".gate")) continue;
      for (const char* projection : {".gate_proj", ".up_proj", ".down_proj"}) {
        AddAdapter(mlp + projection, s_.inner);
      }
    }
  }

  std::vector<ParameterView> Release() { return std::move(views_); }

 private:
  // The modules of a layer's feed-forward part in order, the router (`.gate`) among them.
  std::vector<std::string> Mlps(const std::string& prefix) const {
    if (s_.experts == 0) return {prefix + "mlp"};
    std::vector<std::string> names;
    for (int64_t i = 0; i < s_.experts; ++i) {
      names.push_back(absl::StrCat(prefix, "mlp.experts.", i));
    }
    names.push_back(prefix + "mlp.gate");
    for (int64_t i = 0; i < s_.shared; ++i) {
      names.push_back(absl::StrCat(prefix, "mlp.shared_experts.", i));
    }
    return names;
  }

  // `other`: the side of the projection that is not the hidden size.
  void AddAdapter(const std::string& module, int64_t other) {
    if (other != s_.hidden) return;
    Add(module + ".lora.A.weight", {s_.rank, s_.hidden});
    Add(module + ".lora.B.weight", {s_.hidden, s_.rank});
  }

  const ModelSizes s_;
  std::vector<ParameterView> views_;
  int64_t offset_ = 0;
};

}  // namespace

std::vector<ParameterView> MinimindParameters(const ModelConfig& config, int64_t lora_rank) {
  const ModelSizes sizes(config, lora_rank);
  const auto prefix = [](int64_t layer) { return absl::StrCat("model.layers.", layer, "."); };
  ParameterList list(sizes);
  list.Add("model.embed_tokens.weight", {sizes.vocab, sizes.hidden});
  for (int64_t i = 0; i < sizes.layers; ++i) list.AddLayer(prefix(i));
  list.Add("model.norm.weight", {sizes.hidden});
  if (!config.tie_word_embeddings) list.Add("lm_head.weight", {sizes.vocab, sizes.hidden});
  for (int64_t i = 0; i < sizes.layers && lora_rank > 0; ++i) list.AddAdapters(prefix(i));
  return list.Release();
}

}  // namespace mindforge
