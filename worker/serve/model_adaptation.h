// What a deployment may change about a model folder when it is loaded: LoRA adapters are merged
// into the weights, and RoPE is scaled in another way than config.json says.
#pragma once

#include "absl/status/status.h"
#include "mindforge/v1/inference_agent_service.pb.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// Merges the folder's own adapters and those of `desired`, and sets the scaling. INVALID_ARGUMENT:
// a scaling that cannot be, or adapters that do not fit the model. NOT_FOUND: no such LoRA file.
absl::Status AdaptModel(const v1::DesiredModel& desired, ModelFolder* folder);

// The scaling in force with every number filled in; its type is `none` without one.
v1::RopeScalingSpec DescribeRopeScaling(const ModelConfig& config);

}  // namespace mindforge
