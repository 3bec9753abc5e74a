// Between named tensors in files and the model's and optimizer's flat buffers.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/safetensors.h"
#include "worker/model/adamw.h"
#include "worker/model/minimind.h"

namespace mindforge {

// Names of the moments of parameter `name` in optimizer.safetensors.
std::string FirstMomentName(std::string_view name);
std::string SecondMomentName(std::string_view name);

// Why `tensor` (null: there is none) cannot become `parameter`; empty when it can.
std::string Mismatch(const ParameterView& parameter, const TensorView* tensor);

// Fills `flat` (float32 [P], any device) with the tensors that `find` gives for the parameters,
// converting F16 and BF16. INVALID_ARGUMENT lists every one that is missing or of a wrong shape;
// `flat` is undefined then.
absl::Status LoadFlat(const std::vector<ParameterView>& parameters,
                      const std::function<const TensorView*(const ParameterView&)>& find,
                      const at::Tensor& flat);

// The trained parameters, their offsets counted from the first of them: where each lies in a buffer
// of trained_count() elements.
std::vector<ParameterView> TrainedParameters(const Minimind& model);

// Views of `flat` (float32 on the CPU) under `name_of(parameter)`.
std::vector<TensorView> ViewsOf(const std::vector<ParameterView>& parameters,
                                const std::function<std::string(std::string_view)>& name_of,
                                const float* flat);

// Loads weights and moments of a verified checkpoint. INVALID_ARGUMENT as LoadFlat.
absl::Status LoadCheckpointTensors(const LoadedCheckpoint& checkpoint, Minimind& model,
                                   AdamW& optimizer);

}  // namespace mindforge
