// The model of an entry of tests/data/golden/index.json. What of MiniMind-3 its config.json says in
// fields of its own or, with the norms of q and k, by tensors alone is filled in here: tests that
// use it are about arithmetic, not about reading files.
#pragma once

#include "common/check.h"
#include "nlohmann/json.hpp"
#include "worker/formats/model_config.h"

namespace mindforge {

// `qk_norm`: the entry has q_norm and k_norm tensors.
inline ModelConfig GoldenConfig(const nlohmann::json& json, bool qk_norm) {
  nlohmann::json common = json;
  for (const char* field : {"num_experts", "moe_intermediate_size", "router_aux_loss_coef"}) {
    common.erase(field);
  }
  const auto read = ParseModelConfig(common, nullptr);
  MF_CHECK_OK(read);
  ModelConfig config = *read;
  config.qk_norm = qk_norm;
  if (json.contains("num_experts")) {
    config.moe_family = MoeFamily::kMinimind3;
    config.n_routed_experts = json.at("num_experts");
    config.moe_intermediate_size = json.at("moe_intermediate_size");
    config.aux_loss_alpha = json.at("router_aux_loss_coef");
    config.n_shared_experts = 0;
    config.seq_aux = false;
  }
  return config;
}

}  // namespace mindforge
