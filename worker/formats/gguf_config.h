// A model's shape as a GGUF file's metadata, in the keys and the meanings of llama.cpp.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/formats/gguf.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// The architecture that computes this model: `llama`, with qk_norm `qwen3`, with MiniMind-3's
// mixture too `qwen3moe`. REQUIRES: CheckGgufExport (gguf_model.h) is OK.
std::string GgufArchitecture(const ModelConfig& config);

void AddGgufShape(const ModelConfig& config, const std::string& arch, GgufMetadata* metadata);

// INVALID_ARGUMENT: another architecture, a key that is missing, or one that changes the arithmetic
// and is not supported.
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

}  // namespace mindforge
