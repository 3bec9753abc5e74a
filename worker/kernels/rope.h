// Rotary position tables, shared by training and inference. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/formats/model_config.h"

namespace mindforge {

// cos and sin of position · frequency, [positions, half] row-major. The reference's tables hold
// each row twice side by side (d = 2 · half); element i and i + half of a head turn by the same
// angle:
//   y[i]        = x[i]        · cos[i] - x[i + half] · sin[i]
//   y[i + half] = x[i + half] · cos[i] + x[i]        · sin[i]
// YaRN's attention_factor is multiplied in.
struct RopeTables {
  int64_t positions = 0;
  int64_t half = 0;
  std::vector<float> cos;
  std::vector<float> sin;
};

// Inverse frequencies [head_dim / 2], scaled as config.EffectiveRopeScaling() says.
std::vector<float> RopeInverseFrequencies(const ModelConfig& config);

// Tables for positions 0 … positions-1. Angles are products of float32 as in the reference, so far
// positions round alike.
RopeTables MakeRopeTables(const ModelConfig& config, int64_t positions);

}  // namespace mindforge
