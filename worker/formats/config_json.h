// config.json where the tensors that it belongs to are at hand: what they show decides over what
// the file says, and releases that write the same fields with other meanings are told apart.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// What tensors show of a model. A value type; default: there are none to look at.
struct ShownByTensors {
  bool qk_norm = false;         // q_norm and k_norm
  bool experts = false;         // a router and experts
  bool shared_experts = false;  // of a mixture
  bool own_head = false;        // lm_head.weight with other content than the embedding
};

using FindTensor = std::function<const TensorView*(std::string_view name)>;

// REQUIRES: PlainTensors' names (tensor_names.h).
ShownByTensors ShownBy(const FindTensor& find);

// As ParseModelConfig, with what the tensors show. `notes` (may be null) says where they decided
// over the file, what was taken as another release's, and which fields nobody knows.
absl::StatusOr<ModelConfig> ReadModelConfig(const nlohmann::json& json, const ShownByTensors& shown,
                                            std::vector<std::string>* notes);

// config.json as MiniMind's own code reads it (`model_type: minimind`), in the field names of the
// release that computes this model. INVALID_ARGUMENT: none does; why.
absl::StatusOr<nlohmann::json> MinimindConfigToJson(const ModelConfig& config);

}  // namespace mindforge
