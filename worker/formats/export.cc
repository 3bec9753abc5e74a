#include "worker/formats/export.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/config_json.h"
#include "worker/formats/gguf_model.h"
#include "worker/formats/lora.h"
#include "worker/formats/model_folder_writer.h"
#include "worker/formats/pth.h"
#include "worker/formats/resume_export.h"
#include "worker/formats/rope_json.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

absl::Status CheckYarn(const ModelConfig& config) {
  if (HasStandardYarnRamp(config)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "its YaRN scaling stretches up to the last frequency, where transformers and llama.cpp "
      "compute another ramp; lower original_max_position_embeddings, or export as pth");
}

std::vector<TensorView> ModelTensors(const ModelFolder& folder) {
  std::vector<TensorView> tensors;
  for (const ExpectedTensor& expected : ExpectedTensors(folder.config)) {
    TensorView view = *folder.Find(expected.name);
    view.name = expected.name;
    tensors.push_back(std::move(view));
  }
  return tensors;
}

// What a user of the folder has to know of who loads it.
std::string NoteOnFolder(const Json& config, ExportFormat format) {
  if (format == ExportFormat::kMinimind) {
    return "MiniMind's own code loads the folder (MiniMindForCausalLM.from_pretrained); AutoModel "
           "needs its model_minimind.py beside";
  }
  if (config["model_type"] != "minimind") return "";
  return "transformers has no such mixture of experts: config.json says model_type minimind, which "
         "Mindforge loads";
}

absl::StatusOr<ExportResult> ExportFolder(const ModelFolder& folder, const ExportOptions& options) {
  ExportResult result;
  ModelFolderContents contents;
  contents.dtype = options.dtype.value_or(DType::kF32);
  contents.config = ModelConfigToJson(folder.config);
  if (options.format == ExportFormat::kMinimind) {
    ASSIGN_OR_RETURN(contents.config, MinimindConfigToJson(folder.config));
  }
  contents.config["torch_dtype"] = std::string(WeightDTypeName(*contents.dtype));
  if (!folder.prompt_style.empty()) contents.config[kPromptStyleField] = folder.prompt_style;
  ASSIGN_OR_RETURN(contents.generation_config, GenerationConfigOf(folder));
  contents.tensors = ModelTensors(folder);
  if (folder.tokenizer_path.empty()) {
    result.notes.push_back("the model has no tokenizer.json: AutoTokenizer cannot load the folder");
  } else {
    ASSIGN_OR_RETURN(TokenizerFiles tokenizer, ReadTokenizerFiles(folder.tokenizer_path));
    contents.texts = std::move(tokenizer.texts);
    if (tokenizer.config.is_null()) {
      const ModelConfig& config = folder.config;
      contents.texts["tokenizer_config.json"] =
          DefaultTokenizerConfig(tokenizer.tokenizer, config.bos_token_id, config.eos_token_id,
                                 config.pad_token_id)
              .dump(2) +
          "\n";
    }
  }
  if (std::string note = NoteOnFolder(contents.config, options.format); !note.empty()) {
    result.notes.push_back(std::move(note));
  }
  RETURN_IF_ERROR(WriteModelFolder(options.out, contents, options.overwrite));
  result.paths.push_back(options.out);
  return result;
}

absl::StatusOr<ExportResult> ExportPth(const ModelFolder& folder, const ExportOptions& options) {
  ExportResult result;
  const DType dtype = options.dtype.value_or(DType::kF16);
  std::vector<TensorView> tensors = ModelTensors(folder);
  if (folder.config.tie_word_embeddings) {  // the reference stores the head beside it
    TensorView head = *folder.Find("lm_head.weight");
    head.name = "lm_head.weight";
    tensors.push_back(std::move(head));
  }
  const std::string path = JoinPath(options.out, PthFileName(options.name, folder.config));
  std::optional<ResumeSource> source;
  if (options.with_optimizer) {
    ASSIGN_OR_RETURN(source, ReadResumeSource(folder));
    source->resume.model = tensors;
  }
  std::vector<NewFile> files = {{path, [&](const std::string& temporary) {
                                   return WriteStateDictPth(temporary, tensors, dtype).status();
                                 }}};
  if (source.has_value()) {
    files.push_back({absl::StrCat(std::string(absl::StripSuffix(path, ".pth")), "_resume.pth"),
                     [&](const std::string& temporary) {
                       return WriteResumePth(temporary, source->resume, dtype).status();
                     }});
    result.notes = source->notes;
  }
  RETURN_IF_ERROR(WriteFilesAtomically(files, options.overwrite));
  for (const NewFile& file : files) result.paths.push_back(file.path);
  if (folder.config.EffectiveRopeScaling().has_value()) {
    result.notes.push_back(
        "a .pth holds no configuration: switch RoPE scaling on where it is loaded");
  }
  return result;
}

absl::StatusOr<ExportResult> ExportGguf(const ModelFolder& folder, const ExportOptions& options) {
  const DType dtype = options.dtype.value_or(DType::kF32);
  const std::string path = JoinPath(options.out, absl::StrCat(options.name, "-",
                                                              dtype == DType::kF32   ? "f32"
                                                              : dtype == DType::kF16 ? "f16"
                                                                                     : "bf16",
                                                              ".gguf"));
  const NewFile file = {path, [&](const std::string& temporary) {
                          return WriteGgufModel(temporary, folder, options.name, dtype).status();
                        }};
  RETURN_IF_ERROR(WriteFilesAtomically({file}, options.overwrite));
  return ExportResult{.paths = {path}};
}

absl::StatusOr<ExportResult> ExportLora(const ModelFolder& folder, const ExportOptions& options) {
  const std::vector<TensorView> adapters = LoraTensors(folder);
  if (adapters.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.path, " has no LoRA adapters; leave --lora-only out to export the whole model"));
  }
  std::string path = JoinPath(options.out, LoraFileName(options.name, folder.config.hidden_size));
  if (options.format != ExportFormat::kPth) {
    path = absl::StrCat(std::string(absl::StripSuffix(path, ".pth")), ".safetensors");
  }
  const DType dtype =
      options.dtype.value_or(options.format == ExportFormat::kPth ? DType::kF16 : DType::kF32);
  const NewFile file = {path, [&](const std::string& temporary) {
                          return WriteLora(temporary, adapters, dtype).status();
                        }};
  RETURN_IF_ERROR(WriteFilesAtomically({file}, options.overwrite));
  return ExportResult{.paths = {path}};
}

std::string DefaultName(const ModelFolder& folder, const ExportOptions& options) {
  if (options.format != ExportFormat::kPth || options.lora_only) return NameOf(folder.path);
  return folder.prompt_style == kChatStyle ? "full_sft" : "pretrain";
}

absl::Status CheckOptions(const ExportOptions& options) {
  if (options.name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model's name \"", options.name, "\" cannot be part of a file name"));
  }
  if (options.lora_only && options.format == ExportFormat::kGguf) {
    return absl::InvalidArgumentError(
        "adapters alone are written as pth or hf (safetensors), not as gguf");
  }
  if (options.with_optimizer && (options.format != ExportFormat::kPth || options.lora_only)) {
    return absl::InvalidArgumentError("the optimizer's state goes into a whole pth export only");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckExport(const ModelConfig& config, ExportFormat format) {
  if (format == ExportFormat::kPth) return absl::OkStatus();
  if (format == ExportFormat::kMinimind) return MinimindConfigToJson(config).status();
  RETURN_IF_ERROR(CheckYarn(config));
  if (format == ExportFormat::kGguf) return CheckGgufExport(config);
  const std::optional<RopeScaling> scaling = config.EffectiveRopeScaling();
  if (scaling.has_value() && scaling->type == RopeScaling::Type::kMinimind) {
    return absl::InvalidArgumentError(
        "MiniMind's own RoPE scaling cannot be exported as hf: transformers does not compute it; "
        "remove rope_scaling and inference_rope_scaling from config.json, or set rope_scaling to "
        "type yarn (other frequencies, so try the model's answers), or export as pth");
  }
  return absl::OkStatus();
}

absl::StatusOr<ExportResult> ExportModel(const std::string& path, const ExportOptions& asked) {
  ExportOptions options = asked;
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(ModelFolder folder, OpenModelFolder(path));
  if (options.name.empty()) options.name = DefaultName(folder, options);
  if (options.lora_only) return ExportLora(folder, options);
  if (options.with_optimizer && folder.lora_rank > 0) {
    return absl::InvalidArgumentError(
        "the optimizer of a LoRA job holds the adapters' state, which has no place in the "
        "reference's file; export without it");
  }
  RETURN_IF_ERROR(CheckExport(folder.config, options.format)) << path;
  RETURN_IF_ERROR(MergeLora(&folder));
  absl::StatusOr<ExportResult> result =
      options.format == ExportFormat::kPth    ? ExportPth(folder, options)
      : options.format == ExportFormat::kGguf ? ExportGguf(folder, options)
                                              : ExportFolder(folder, options);
  RETURN_IF_ERROR(result.status());
  for (const std::string& warning : folder.warnings) {
    if (!warning.starts_with("no tokenizer.json")) result->notes.push_back(warning);
  }
  return result;
}

std::string PthFileName(std::string_view weight, const ModelConfig& config) {
  return absl::StrCat(std::string(weight), "_", config.hidden_size, config.use_moe ? "_moe" : "",
                      ".pth");
}

absl::StatusOr<DType> ParseWeightDType(std::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (name == WeightDTypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", std::string(name), "\" is none of float32, float16 and bfloat16"));
}

std::string_view WeightDTypeName(DType dtype) {
  return dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
}

}  // namespace mindforge
