// Builds the ModelRunner that fits a device. Torch-free header.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/hf_folder.h"
#include "worker/infer/model_runner.h"

namespace mindforge {

enum class RunnerDtype { kFloat32, kBfloat16 };

struct RunnerOptions {
  std::string model_folder;    // config.json and safetensors in Hugging Face's names
  std::string device = "cpu";  // cpu | cuda:N
  RunnerDtype dtype = RunnerDtype::kFloat32;
  int64_t slots = 8;
  int64_t max_context = 2048;  // tokens of a slot; capped by the model's max_position_embeddings
  int64_t max_batch_tokens = 320;  // tokens of one step, prefills and decodes together
  int64_t threads = 1;             // CPU only, the calling thread included
};

// Loads the weights and allocates the slots.
// NOT_FOUND, INVALID_ARGUMENT, DATA_LOSS: the folder is missing, wrong or damaged. UNIMPLEMENTED:
// cuda in a CPU build. RESOURCE_EXHAUSTED: the memory does not suffice.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakeModelRunner(const RunnerOptions& options);
// The same of a folder that is open; `options.model_folder` is not looked at.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakeModelRunner(const ModelFolder& folder,
                                                             const RunnerOptions& options);

}  // namespace mindforge
