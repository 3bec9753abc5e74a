// The ModelRunner of a GPU: LibTorch operations on preallocated KV slots. Torch stays out of this
// header.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/hf_folder.h"
#include "worker/infer/model_runner.h"
#include "worker/infer/runner_factory.h"

namespace mindforge {

// `device` is what torch calls it: cuda:0, and cpu in tests. Converts what torch throws.
// RESOURCE_EXHAUSTED: the device's memory does not suffice.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakeTorchRunner(const ModelFolder& folder,
                                                             const RunnerOptions& options);

}  // namespace mindforge
