// A Hugging Face model folder: config.json, model.safetensors (or shards with an index),
// generation_config.json and a tokenizer. Opening one checks every tensor that the configuration
// promises. It does not know how tensors get onto a device.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/formats/expected_tensors.h"
#include "worker/formats/model_config.h"
#include "worker/formats/named_tensors.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// generation_config.json's values; unset where the folder does not say.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> max_new_tokens;
  std::vector<int64_t> eos_token_ids;  // config.json's when generation_config.json has none
};

absl::StatusOr<GenerationDefaults> ParseGenerationConfig(const nlohmann::json& json);
// The reference's: sampling, temperature 0.85, top_p 0.85, top_k 50, and the model's ids.
nlohmann::json DefaultGenerationConfig(const ModelConfig& config);

// How prompts were meant by who trained the model: `mindforge_prompt_style` of config.json.
inline constexpr char kPromptStyleField[] = "mindforge_prompt_style";
inline constexpr char kCompletionStyle[] = "completion";
inline constexpr char kChatStyle[] = "chat";
// The rank of the LoRA adapters that a folder holds beside its base.
inline constexpr char kLoraRankField[] = "lora_rank";

// An opened model folder. Views live as long as it does, moved or not. Several threads may read it
// while none changes it.
struct ModelFolder {
  std::string path;
  ModelConfig config;
  GenerationDefaults generation;
  std::string tokenizer_path;  // the folder itself, empty when it has no tokenizer.json
  // Of the adapters among `tensors`, which MergeLora (lora.h) puts into the base; 0: there are
  // none.
  int64_t lora_rank = 0;
  std::string prompt_style;  // kCompletionStyle, kChatStyle, or empty when the folder does not say
  std::vector<std::string> warnings;
  std::unique_ptr<NamedTensors> stored;
  TensorMap tensors;

  // Null when there is none. A tied head is found under `lm_head.weight` too.
  const TensorView* Find(std::string_view name) const;

  // From now on `name` is this tensor. REQUIRES: as many values as the shape says.
  void Replace(const std::string& name, const std::vector<int64_t>& shape,
               std::vector<float> values);

 private:
  struct Owned {
    std::vector<float> values;
    TensorView view;
  };
  std::deque<Owned> owned_;
};

// generation_config.json of another folder with this model: its own, else the defaults, with every
// end-of-text id that the folder names anywhere. Errors as ParseJson and ReadFile.
absl::StatusOr<nlohmann::json> GenerationConfigOf(const ModelFolder& folder);

// NOT_FOUND: no folder, no config.json or no weights. INVALID_ARGUMENT: a configuration that cannot
// be built, or tensors missing, of a wrong shape or dtype (F32, F16 and BF16 are taken): every
// problem is listed, tensors that the model has no place for among them. DATA_LOSS: a file that is
// not what it claims. What tensors show decides over config.json (config_json.h). A head stored
// beside a tied embedding is accepted. LoRA adapters are accepted where config.json names their
// rank; a model with them is the base alone until they are merged.
absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& path);

}  // namespace mindforge
