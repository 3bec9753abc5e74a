// Names and shapes of a model's parameters, and whether what a file holds is just these.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "worker/formats/config_json.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// Names and shapes of a model's parameters in the reference's names and module order (embedding;
// per layer q, k, v, o, [q_norm, k_norm], input norm, post norm, mlp; final norm). `lm_head.weight`
// is listed last and only when the head is not tied.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

using TensorMap = std::unordered_map<std::string, const TensorView*>;

// Borrows `tensors`.
FindTensor FinderIn(const TensorMap& tensors);

// What of `expected` is missing or of another shape, and which of `tensors` a model of it would
// leave out, one text each; a head beside a tied embedding is none.
std::vector<std::string> Misfits(const std::vector<ExpectedTensor>& expected,
                                 const TensorMap& tensors);

}  // namespace mindforge
