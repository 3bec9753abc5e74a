// A model as requests see it: its name, tokenizer, chat template, limits and defaults. The weights
// are the engine's affair.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mindforge/v1/inference_agent_service.pb.h"
#include "worker/infer/model_runner.h"
#include "worker/infer/runner_factory.h"
#include "worker/tokenizer/chat_templates.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

// What a request gets where it does not say.
struct SamplingDefaults {
  double temperature = 0.85;
  int64_t top_k = 50;
  double top_p = 0.85;
  double min_p = 0;
  double repetition_penalty = 1;
  int64_t max_new_tokens = 0;  // 0: what the context leaves
};

// Immutable after loading.
struct ServedModel {
  std::string deployment;
  std::string path;
  std::string weights_version;
  v1::PromptStyle prompt_style = v1::PROMPT_STYLE_COMPLETION;
  // What holds where the deployment does not say.
  v1::PromptStyle own_prompt_style = v1::PROMPT_STYLE_COMPLETION;
  std::string lora_path;                   // merged into the weights; empty: none
  v1::RopeScalingSpec asked_rope_scaling;  // no type: the folder's own
  v1::RopeScalingSpec rope_scaling;        // in force
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplates> chat_templates;  // always there once loaded
  SamplingDefaults defaults;
  int32_t bos_id = 1;
  std::vector<int32_t> eos_ids;
  std::string config_json;
  int64_t parameter_count = 0;
  std::string dtype;
  std::string device;
  // Of the runner.
  std::string numerics_id;
  int64_t vocab_size = 0;
  int64_t max_context = 0;
};

// A model that is in memory but not served yet.
struct LoadedModel {
  std::shared_ptr<ServedModel> model;
  std::unique_ptr<ModelRunner> runner;
};

// Loads the folder that `desired` names, adapted as it says; `runner` gives everything but the
// folder. A checkpoint folder (one with a manifest) is verified first, and weights or logits of a
// canary prompt that are not finite are refused, so that they never take the place of good ones. A
// prompt style that `desired` leaves open is the folder's; where that says nothing, completion for
// a checkpoint, else chat if there is a chat template that can be rendered. Errors say which file
// is wrong and what to do.
absl::StatusOr<LoadedModel> LoadModelFolder(const v1::DesiredModel& desired, RunnerOptions runner);

// Whether `model` has the very weights that `desired` names: only name and style may differ.
bool HasWeights(const ServedModel& model, const v1::DesiredModel& desired);
// The same weights under the name and prompt style that `desired` says.
void Rename(const v1::DesiredModel& desired, ServedModel* model);

}  // namespace mindforge
