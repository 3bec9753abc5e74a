#include "worker/serve/served_model.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint.h"
#include "worker/formats/hf_folder.h"
#include "worker/serve/field_checker.h"
#include "worker/serve/generation_plan.h"
#include "worker/serve/model_adaptation.h"
#include "worker/serve/weights_check.h"

namespace mindforge {
namespace {

SamplingDefaults Defaults(const GenerationDefaults& folder) {
  SamplingDefaults defaults;
  if (folder.temperature) defaults.temperature = *folder.temperature;
  if (folder.do_sample && !*folder.do_sample) defaults.temperature = 0;
  if (folder.top_k) defaults.top_k = *folder.top_k;
  if (folder.top_p) defaults.top_p = *folder.top_p;
  if (folder.min_p) defaults.min_p = *folder.min_p;
  if (folder.repetition_penalty) defaults.repetition_penalty = *folder.repetition_penalty;
  if (folder.max_new_tokens) defaults.max_new_tokens = *folder.max_new_tokens;
  return defaults;
}

// Here rather than at each request, which is not at fault.
absl::Status CheckGeneration(const ModelFolder& folder) {
  const SamplingDefaults defaults = Defaults(folder.generation);
  FieldChecker check;
  CheckSampling({.temperature = defaults.temperature,
                 .top_k = defaults.top_k,
                 .top_p = defaults.top_p,
                 .min_p = defaults.min_p},
                "", &check);
  CheckRepetitionPenalty(defaults.repetition_penalty, &check);
  check.Range("max_new_tokens", defaults.max_new_tokens, 0, kMostTokens);
  // config.json's where generation_config.json has none.
  check.TokenIds("eos_token_id", folder.generation.eos_token_ids, folder.config.vocab_size);
  RETURN_IF_ERROR(check.status())
      << (std::filesystem::path(folder.path) / "generation_config.json").string();
  return absl::OkStatus();
}

absl::StatusOr<ModelFolder> Open(const std::string& path) {
  absl::StatusOr<ModelFolder> folder = OpenModelFolder(path);
  if (!absl::IsNotFound(folder.status())) return folder;
  return Error(absl::StatusCode::kNotFound, "MODEL_FILES_MISSING",
               absl::StrCat(std::string(folder.status().message()),
                            "; a model folder holds config.json, model.safetensors and "
                            "tokenizer.json, and every inference worker must see it"));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const ModelFolder& folder) {
  if (folder.tokenizer_path.empty()) {
    return Error(absl::StatusCode::kNotFound, "TOKENIZER_MISSING",
                 absl::StrCat("there is no tokenizer.json in ", folder.path,
                              "; copy the tokenizer's files into the model's folder"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(folder.tokenizer_path));
  if (tokenizer->vocab_size() > folder.config.vocab_size) {
    return Error(absl::StatusCode::kInvalidArgument, "TOKENIZER_MISMATCH",
                 absl::StrCat("the tokenizer in ", folder.path, " has ids up to ",
                              tokenizer->vocab_size() - 1, " but the model's vocab_size is ",
                              folder.config.vocab_size, "; it belongs to another model"));
  }
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

v1::PromptStyle OwnPromptStyle(const ModelFolder& folder, bool is_checkpoint,
                               const ServedModel& model) {
  if (folder.prompt_style == kChatStyle) return v1::PROMPT_STYLE_CHAT;
  // Jobs pretrain: a checkpoint that does not say continues text.
  if (folder.prompt_style == kCompletionStyle || is_checkpoint) return v1::PROMPT_STYLE_COMPLETION;
  return model.chat_templates->status().ok() ? v1::PROMPT_STYLE_CHAT : v1::PROMPT_STYLE_COMPLETION;
}

bool IsCheckpoint(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::path(path) / "MANIFEST.json", ignored);
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModelFolder(const v1::DesiredModel& desired, RunnerOptions runner) {
  ASSIGN_OR_RETURN(ModelFolder folder, Open(desired.path()));
  for (const std::string& warning : folder.warnings) {
    MF_LOG(WARNING) << desired.deployment() << ": " << warning;
  }
  // After opening, whose errors say more of a folder that was put together wrongly.
  const bool is_checkpoint = IsCheckpoint(desired.path());
  if (is_checkpoint) {
    RETURN_IF_ERROR(VerifyCheckpoint(desired.path())) << "checking " << desired.path();
  }
  RETURN_IF_ERROR(AdaptModel(desired, &folder)) << "adapting " << desired.path();
  RETURN_IF_ERROR(CheckFiniteWeights(folder));
  auto model = std::make_shared<ServedModel>();
  model->path = desired.path();
  model->weights_version = desired.weights_version();
  model->lora_path = desired.lora_path();
  model->asked_rope_scaling = desired.rope_scaling();
  model->rope_scaling = DescribeRopeScaling(folder.config);
  ASSIGN_OR_RETURN(model->tokenizer, LoadTokenizer(folder));
  model->chat_templates = ChatTemplates::Of(model->tokenizer->chat_templates(),
                                            model->tokenizer->chat_template_problem());
  model->own_prompt_style = OwnPromptStyle(folder, is_checkpoint, *model);
  Rename(desired, model.get());
  RETURN_IF_ERROR(CheckGeneration(folder));
  model->defaults = Defaults(folder.generation);
  model->bos_id =
      model->tokenizer->bos_id().value_or(static_cast<int32_t>(folder.config.bos_token_id));
  model->eos_ids.assign(folder.generation.eos_token_ids.begin(),
                        folder.generation.eos_token_ids.end());
  model->config_json = ModelConfigToJson(folder.config).dump();
  model->parameter_count = folder.config.ParameterCount();
  model->dtype = runner.dtype == RunnerDtype::kBfloat16 ? "bfloat16" : "float32";
  model->device = runner.device;
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.runner, MakeModelRunner(folder, runner));
  RETURN_IF_ERROR(CheckCanary(*loaded.runner, model->bos_id)) << desired.path();
  model->numerics_id = loaded.runner->numerics_id();
  model->vocab_size = loaded.runner->vocab_size();
  model->max_context = loaded.runner->max_context();
  loaded.model = std::move(model);
  return loaded;
}

bool HasWeights(const ServedModel& model, const v1::DesiredModel& desired) {
  return model.path == desired.path() && model.weights_version == desired.weights_version() &&
         model.lora_path == desired.lora_path() &&
         model.asked_rope_scaling.SerializeAsString() == desired.rope_scaling().SerializeAsString();
}

void Rename(const v1::DesiredModel& desired, ServedModel* model) {
  model->deployment = desired.deployment();
  model->prompt_style = desired.prompt_style() == v1::PROMPT_STYLE_UNSPECIFIED
                            ? model->own_prompt_style
                            : desired.prompt_style();
}

}  // namespace mindforge
