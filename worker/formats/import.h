// A model of another program (.pth, Hugging Face folder, GGUF) as a model folder that training can
// start from and inference serves. It does not know jobs or the coordinator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/export.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// What a bare .pth does not say. Unset: the reference's default, which the result reports.
struct ShapeHints {
  std::string config_path;  // a config.json, which then says everything; else empty
  std::optional<int64_t> num_attention_heads;
  std::optional<int64_t> max_position_embeddings;
  std::optional<double> rope_theta;
  std::optional<double> rms_norm_eps;
  std::optional<int64_t> num_experts_per_tok;
};

struct ImportOptions {
  std::string from;            // a file, told by its content, or a folder
  std::string out;             // the folder to be written
  std::string tokenizer;       // folder or tokenizer.json; empty: the source's own
  ShapeHints shape;            // of a .pth or a safetensors file
  std::optional<DType> dtype;  // unset: each tensor as it is stored
  std::string prompt_style;    // kCompletionStyle, kChatStyle, or empty: the source's
  bool overwrite = false;
};

struct ImportResult {
  ModelConfig config;
  std::vector<std::string> notes;  // what was assumed or left out
};

// The configuration that tensors of these names and shapes belong to; what they do not show is
// taken from `hints` or assumed, which `notes` then says. INVALID_ARGUMENT: they are no model's, or
// a hint does not fit them.
absl::StatusOr<ModelConfig> InferModelConfig(const std::vector<TensorView>& tensors,
                                             const ShapeHints& hints,
                                             std::vector<std::string>* notes);

// Errors as NamedTensors::Open, OpenModelFolder, ReadGgufModel and WriteModelFolder; nothing is
// left behind then. INVALID_ARGUMENT too for a file of LoRA adapters, and for tensors that do not
// fit.
absl::StatusOr<ImportResult> ImportModel(const ImportOptions& options);

}  // namespace mindforge
