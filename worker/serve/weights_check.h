// Whether weights may be served: none is NaN or infinite, and neither is what a forward pass makes
// of them. It does not know where they came from; a checkpoint's hashes are checked elsewhere.
#pragma once

#include "absl/status/status.h"
#include "worker/formats/hf_folder.h"
#include "worker/infer/model_runner.h"

namespace mindforge {

// DATA_LOSS (reason WEIGHTS_NOT_FINITE): names the tensor, where in it the first bad value stands,
// and how many there are.
absl::Status CheckFiniteWeights(const ModelFolder& folder);

// Runs a canary prompt, bos and ids from all over the vocabulary, in the first slot, which is then
// as free as before. DATA_LOSS (reason LOGITS_NOT_FINITE): weights that are finite overflow in the
// runner's arithmetic. Else the runner's error.
absl::Status CheckCanary(ModelRunner& runner, int32_t bos_id);

}  // namespace mindforge
