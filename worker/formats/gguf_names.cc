#include "worker/formats/gguf_names.h"

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mindforge {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kModelNames = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};
constexpr std::string_view kLayerPrefix = "model.layers.";
constexpr std::string_view kBlockPrefix = "blk.";
constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kLayerNames = {{
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
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
}};
constexpr std::string_view kExperts = ".mlp.experts.";
constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kStacks = {{
    {"gate_proj.weight", ".ffn_gate_exps.weight"},
    {"up_proj.weight", ".ffn_up_exps.weight"},
    {"down_proj.weight", ".ffn_down_exps.weight"},
}};

// "7" of "prefix7suffix"; "" when it is none, or no number.
std::string_view NumberIn(std::string_view name, std::string_view prefix, std::string_view suffix) {
  if (!name.starts_with(prefix) || !name.ends_with(suffix) ||
      name.size() <= prefix.size() + suffix.size()) {
    return "";
  }
  name = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
  return name.find_first_not_of("0123456789") == std::string_view::npos ? name : "";
}

}  // namespace

std::string GgufName(std::string_view name, bool to_gguf) {
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

bool SplitExpertName(std::string_view name, std::string* stack, int64_t* expert) {
  const size_t experts = name.find(kExperts);
  if (experts == std::string_view::npos) return false;
  const std::string_view layer = NumberIn(name.substr(0, experts), kLayerPrefix, "");
  const std::string_view rest = name.substr(experts + kExperts.size());
  for (const auto& [ours, theirs] : kStacks) {
    const std::string_view number = NumberIn(rest, "", absl::StrCat(".", std::string(ours)));
    if (layer.empty() || number.empty() || !absl::SimpleAtoi(std::string(number), expert)) continue;
    *stack = absl::StrCat(std::string(kBlockPrefix), std::string(layer), std::string(theirs));
    return true;
  }
  return false;
}

std::string ExpertName(std::string_view stack, int64_t expert) {
  for (const auto& [ours, theirs] : kStacks) {
    const std::string_view layer = NumberIn(stack, kBlockPrefix, theirs);
    if (layer.empty()) continue;
    return absl::StrCat(std::string(kLayerPrefix), std::string(layer), std::string(kExperts),
                        expert, ".", std::string(ours));
  }
  return "";
}

}  // namespace mindforge
