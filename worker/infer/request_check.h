// What a generation request must look like to be taken.
#pragma once

#include "absl/status/status.h"
#include "worker/infer/engine.h"

namespace mindforge {

// INVALID_ARGUMENT: names the value, what is wrong with it and what would do.
absl::Status CheckRequest(const GenerationRequest& request, const EngineModel& model);

}  // namespace mindforge
