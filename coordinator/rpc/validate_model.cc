#include "coordinator/rpc/validate_model.h"

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace mindforge {
namespace {

constexpr char kMiniMind2[] = "minimind2";
constexpr char kMiniMind3[] = "minimind3";

// True when the heads fit each other and hidden_size. `dim_given`: not filled in as a default.
bool CheckHeads(const v1::ModelSpec& model, bool dim_given, FieldCheck& check) {
  const int64_t hidden = model.hidden_size(), heads = model.num_attention_heads();
  const int64_t kv_heads = model.num_key_value_heads(), dim = model.head_dim();
  if (!check.Range("model.num_attention_heads", heads, int64_t{1}, 1024)) return false;
  const bool kv_fits =
      check.Range("model.num_key_value_heads", kv_heads, int64_t{1}, heads) &&
      check.Require(
          heads % kv_heads == 0, "model.num_key_value_heads",
          absl::StrCat("is ", kv_heads, ", must divide num_attention_heads (", heads, ")"));
  if (!dim_given && !check.Require(hidden % heads == 0, "model.num_attention_heads",
                                   absl::StrCat("is ", heads, ", must divide hidden_size (", hidden,
                                                "), or model.head_dim must be given"))) {
    return false;
  }
  return check.Range("model.head_dim", dim, int64_t{1}, 4096) &&
         check.Require(dim % 2 == 0, "model.head_dim",
                       absl::StrCat("is ", dim,
                                    ", must be even (RoPE turns pairs): choose another "
                                    "hidden_size or num_attention_heads")) &&
         kv_fits;
}

void CheckMiniMind3Experts(const v1::ModelSpec& model, FieldCheck& check) {
  check.Range("model.router_aux_loss_coef", model.router_aux_loss_coef(), 0.0, 1e6);
  if (!model.use_moe()) return;
  if (check.Range("model.num_experts", model.num_experts(), int64_t{1}, 1024)) {
    check.Range("model.num_experts_per_tok", model.num_experts_per_tok(), int64_t{1},
                model.num_experts());
  }
  if (model.has_moe_intermediate_size()) {
    check.Range("model.moe_intermediate_size", model.moe_intermediate_size(), int64_t{1}, 1 << 20);
  }
}

void CheckExperts(const v1::ModelSpec& model, FieldCheck& check) {
  if (model.has_num_experts()) return CheckMiniMind3Experts(model, check);
  check.Range("model.aux_loss_alpha", model.aux_loss_alpha(), 0.0, 1e6);
  if (!model.use_moe()) return;
  if (check.Range("model.n_routed_experts", model.n_routed_experts(), int64_t{1}, 1024)) {
    check.Range("model.num_experts_per_tok", model.num_experts_per_tok(), int64_t{1},
                model.n_routed_experts());
  }
  check.Range("model.n_shared_experts", model.n_shared_experts(), int64_t{0}, 1024);
}

// The mixtures of the two releases have fields of their own: those of one say which it is.
void CheckMixture(const v1::JobSpec& submitted, FieldCheck& check) {
  const v1::ModelSpec& model = submitted.model();
  const auto set = [](std::initializer_list<std::pair<bool, const char*>> fields) {
    std::vector<std::string> names;
    for (const auto& [is_set, name] : fields) {
      if (is_set) names.push_back(absl::StrCat("model.", name));
    }
    return names;
  };
  const std::vector<std::string> second = set({{model.has_n_routed_experts(), "n_routed_experts"},
                                               {model.has_n_shared_experts(), "n_shared_experts"},
                                               {model.has_aux_loss_alpha(), "aux_loss_alpha"},
                                               {model.has_seq_aux(), "seq_aux"}});
  const std::vector<std::string> third =
      set({{model.has_num_experts(), "num_experts"},
           {model.has_moe_intermediate_size(), "moe_intermediate_size"},
           {model.has_router_aux_loss_coef(), "router_aux_loss_coef"}});
  for (const std::string& field : second) {
    if (!third.empty()) {
      check.Require(false, field,
                    absl::StrCat("is of MiniMind2's mixture of experts, ", third[0],
                                 " of MiniMind-3's: leave one of them out"));
    } else if (submitted.recipe() == kMiniMind3) {
      check.Require(false, field,
                    "is of MiniMind2's mixture of experts, and recipe is minimind3, whose fields "
                    "are num_experts, moe_intermediate_size and router_aux_loss_coef");
    }
  }
  if (!second.empty() || submitted.recipe() != kMiniMind2) return;
  for (const std::string& field : third) {
    check.Require(false, field,
                  "is of MiniMind-3's mixture of experts, and recipe is minimind2, whose fields "
                  "are n_routed_experts, n_shared_experts, aux_loss_alpha and seq_aux");
  }
}

}  // namespace

bool CheckModel(const v1::JobSpec& job, const v1::JobSpec& submitted, FieldCheck& check) {
  const v1::ModelSpec& model = job.model();
  bool sizes_fit = false;
  if (check.Range("model.hidden_size", model.hidden_size(), int64_t{1}, 65536)) {
    sizes_fit = CheckHeads(model, submitted.model().has_head_dim(), check);
    check.Range("model.intermediate_size", model.intermediate_size(), int64_t{1}, 1 << 20);
  }
  check.Range("model.num_hidden_layers", model.num_hidden_layers(), int64_t{1}, 1024);
  if (model.has_vocab_size()) {
    check.Range("model.vocab_size", model.vocab_size(), int64_t{4}, 1 << 20);
  }
  check.Range("model.max_position_embeddings", model.max_position_embeddings(), int64_t{2},
              1 << 20);
  check.Range("model.rope_theta", model.rope_theta(), 1.0, 1e12);
  check.Range("model.rms_norm_eps", model.rms_norm_eps(), 0.0, 1e-1, /*open_low=*/true);
  check.Require(model.dropout() >= 0 && model.dropout() < 1, "model.dropout",
                absl::StrCat("is ", model.dropout(), ", must be from 0 to below 1"));
  CheckExperts(model, check);
  CheckMixture(submitted, check);
  return sizes_fit;
}

}  // namespace mindforge
