// Checks and host-side views of a microbatch, common to the backends.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/minimind.h"

namespace mindforge {

// INVALID_ARGUMENT as Minimind::ForwardBackward documents it.
absl::Status CheckMicrobatch(const Minimind& model, const Microbatch& microbatch);
// The microbatch, checked, on the CPU. Waits for the device when it lies there.
absl::StatusOr<Microbatch> CheckedOnHost(const Minimind& model, const Microbatch& microbatch);
absl::Status CheckGradient(const Minimind& model, const at::Tensor& gradient);
absl::Status CheckTokens(const ModelConfig& config, const char* what, const at::Tensor& ids);
absl::Status CheckLogitsArguments(const ModelConfig& config, const at::Tensor& input_ids,
                                  const at::Tensor& padding_mask, int64_t logits_to_keep);

// [B · T]: for each position of a row the first position of its document.
std::vector<int32_t> FirstKeys(const at::Tensor& document_ids);

}  // namespace mindforge
