// Whether a value of a config.json's field changes nothing in what a model computes. It does not
// know which field has which rule (other_fields.cc does).
#pragma once

#include <cstdint>

#include "nlohmann/json.hpp"
#include "worker/formats/model_config.h"

namespace mindforge {

// At which values a field changes nothing. A null never does.
enum class Inert : uint8_t {
  kSilent,         // any: it is of training, of drawing weights, of a library
  kNone,           // none but null and what is empty
  kFalse,          // false, 0
  kTrue,           // true, 1
  kQkNorm,         // false, or true where q and k are normalised
  kZero,           // 0, false, what is empty
  kOne,            // 1
  kNoList,         // an empty list
  kAllOnes,        // a list of ones
  kFullAttention,  // a list of "full_attention"
  kMlpTypes,       // a list of "sparse" in a mixture, of "dense" elsewhere
  kLast,           // -1 or the last layer
  kGroups,         // 0 or 1: one group
  kHeadDim,        // the head's width
  kScoreScale,     // 1/sqrt(head's width)
  kHiddenSize,
  kEps,        // rms_norm_eps
  kRopeTheta,  // rope_theta
  kOriginal,   // rope_scaling's own, or any where there is no scaling
  kSilu,
  kSoftmax,
  kGreedy,
  kRope,
  kRmsNorm,
};

// `config`: the model's own values, to which some rules compare. REQUIRES: no null.
bool IsInert(Inert inert, const nlohmann::json& value, const ModelConfig& config);
// An empty list or object.
bool IsEmptyValue(const nlohmann::json& value);

}  // namespace mindforge
