// A model folder or checkpoint in the form that another program takes: a Hugging Face folder, the
// reference's .pth, llama.cpp's GGUF. It does not know jobs or the coordinator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// kMinimind: a folder with a config.json as MiniMind's own code has it.
enum class ExportFormat { kHuggingFace, kMinimind, kPth, kGguf };

struct ExportOptions {
  ExportFormat format = ExportFormat::kHuggingFace;
  std::string out;             // a folder; for hf the model folder itself
  std::optional<DType> dtype;  // F32, F16 or BF16; unset: F32, for pth F16 as the reference
  // The file's stem for pth and gguf. Empty: the folder's name; for a whole pth the reference's
  // name of the stage, `pretrain` or `full_sft` by the prompt style, which its evaluation goes by.
  std::string name;
  bool lora_only = false;       // the adapters alone, not merged
  bool with_optimizer = false;  // pth of a checkpoint: `…_resume.pth` too
  bool overwrite = false;
};

struct ExportResult {
  std::vector<std::string> paths;  // what was written: a folder or files
  std::vector<std::string> notes;  // what the user should know
};

// INVALID_ARGUMENT: the model cannot be computed by who reads that format; why and what to do.
absl::Status CheckExport(const ModelConfig& config, ExportFormat format);

// Exports the folder or checkpoint `path`, LoRA adapters merged unless they are what is exported.
// Nothing is left behind on error. Errors as OpenModelFolder, CheckExport and WriteModelFolder;
// INVALID_ARGUMENT too for options that exclude each other. A checkpoint must be verified before.
absl::StatusOr<ExportResult> ExportModel(const std::string& path, const ExportOptions& options);

// The reference's name: `{weight}_{hidden}[_moe].pth`.
std::string PthFileName(std::string_view weight, const ModelConfig& config);

// "float32", "float16" or "bfloat16". INVALID_ARGUMENT for another name.
absl::StatusOr<DType> ParseWeightDType(std::string_view name);
std::string_view WeightDTypeName(DType dtype);

}  // namespace mindforge
