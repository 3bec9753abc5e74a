// rope_scaling and rope_parameters of a config.json, in the meanings of those who write them.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/formats/config_fields.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// The scaling of MiniMind-3's `inference_rope_scaling: true`.
RopeScaling Minimind3RopeScaling();

struct RopeReading {
  bool hugging_face = false;           // llama, qwen3, qwen3_moe: transformers' meanings
  std::vector<std::string>* problems;  // all of them
  std::vector<std::string>* notes;     // may be null
  std::vector<std::string>* unknown;   // fields that nobody knows
};

// Reads both fields into `config`, which holds the model's other values already.
void ReadRope(const RopeReading& reading, FieldReader* fields, ModelConfig* config);

// Whether transformers and llama.cpp compute the same ramp: they bound it by head_dim - 1, we by
// head_dim / 2 - 1. True for another kind of scaling, and for none.
bool HasStandardYarnRamp(const ModelConfig& config);

nlohmann::json RopeScalingToJson(const RopeScaling& scaling);

}  // namespace mindforge
