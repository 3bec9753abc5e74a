// A model folder as one GGUF file and back: llama.cpp's names, keys and order of rows. Dense models
// are written as architecture `llama`, with qk_norm as `qwen3`, MiniMind-3's mixture of experts as
// `qwen3moe`.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/gguf.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// INVALID_ARGUMENT: llama.cpp has no architecture that computes this model (MiniMind2's mixture of
// experts, MiniMind's own RoPE scaling, YaRN with other betas than its own), with the remedy.
absl::Status CheckGgufExport(const ModelConfig& config);

// Writes weights as `dtype` (norms stay F32), shape, tokenizer and chat template. On error the file
// may be left half written. INVALID_ARGUMENT: as above, a tokenizer that llama.cpp would read
// otherwise, or a folder without one. REQUIRES: no LoRA adapters left to merge.
absl::StatusOr<FileDigest> WriteGgufModel(const std::string& path, const ModelFolder& folder,
                                          const std::string& model_name, DType dtype);

// A model read from a GGUF file, in our names and row order. Views live as long as it does.
struct GgufModel {
  ModelConfig config;
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> tokenizer;  // files by name; empty: none in the file
  // Why the file's tokenizer cannot be taken over, when it cannot.
  absl::Status tokenizer_status;

  std::unique_ptr<GgufFile> file;
  std::deque<std::string> reordered;
};

// As GgufFile::Open, and INVALID_ARGUMENT: another architecture, a key that is missing or that
// changes the arithmetic and is not supported, or a tensor that has no place.
absl::StatusOr<GgufModel> ReadGgufModel(const std::string& path);

}  // namespace mindforge
