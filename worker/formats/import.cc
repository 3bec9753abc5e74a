#include "worker/formats/import.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint_names.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/gguf_model.h"
#include "worker/formats/lora.h"
#include "worker/formats/model_folder_writer.h"
#include "worker/formats/named_tensors.h"
#include "worker/formats/tokenizer_files.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr char kPretrained[] = "pretrain";  // how the reference names weights of its first stage

// A source once it is open, whatever it was.
struct Source {
  ModelConfig config;
  std::vector<TensorView> tensors;
  std::map<std::string, std::string> tokenizer;
  absl::Status tokenizer_status;  // why the source's tokenizer cannot be taken, when it cannot
  std::string prompt_style;
  Json generation_config;  // null: the defaults
  std::vector<std::string> notes;

  // Owners of the tensors, one of them.
  std::unique_ptr<NamedTensors> named;
  std::optional<ModelFolder> folder;
  std::optional<GgufModel> gguf;
};

bool IsGguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream file(path, std::ios::binary);
  return file.read(magic, sizeof(magic)) && std::string_view(magic, sizeof(magic)) == "GGUF";
}

// The tensors that the configuration asks for, in its order. INVALID_ARGUMENT lists what does not
// fit, tensors that are left over among it.
absl::Status SelectTensors(Source* source) {
  TensorMap found;
  for (const TensorView& view : source->tensors) found.emplace(view.name, &view);
  const std::vector<ExpectedTensor> expected = ExpectedTensors(source->config);
  const std::vector<std::string> problems = Misfits(expected, found);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the tensors do not fit the model's configuration: ", ListSome(problems, "; ")));
  }
  std::vector<TensorView> selected;
  for (const ExpectedTensor& one : expected) selected.push_back(*found.at(one.name));
  source->tensors = std::move(selected);
  return absl::OkStatus();
}

// The first flag of `hints` that is given; "" when none is.
std::string FirstFlag(const ShapeHints& hints, bool with_config) {
  if (with_config && !hints.config_path.empty()) return "--config";
  if (hints.num_attention_heads.has_value()) return "--num-attention-heads";
  if (hints.max_position_embeddings.has_value()) return "--max-position-embeddings";
  if (hints.rope_theta.has_value()) return "--rope-theta";
  if (hints.rms_norm_eps.has_value()) return "--rms-norm-eps";
  if (hints.num_experts_per_tok.has_value()) return "--num-experts-per-tok";
  return "";
}

// A flag that would be taken for heard and is not is refused.
absl::Status CheckFlags(const ImportOptions& options, bool says_its_shape) {
  const std::string flag = FirstFlag(options.shape, /*with_config=*/says_its_shape);
  if (flag.empty()) return absl::OkStatus();
  if (says_its_shape) {
    return InvalidArgument(
        flag, absl::StrCat(options.from,
                           " says its model's shape itself; leave the flag out, or change the "
                           "configuration there"));
  }
  if (options.shape.config_path.empty()) return absl::OkStatus();
  return InvalidArgument(flag, "is given beside --config, which says it all; give one of the two");
}

// A folder with a .pth in it is no model folder, but its user means that file.
absl::Status CheckModelFolder(const std::string& path) {
  if (PathExists(JoinPath(path, "config.json"))) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(path));
  for (const std::string& name : names) {
    if (!name.ends_with(".pth")) continue;
    return absl::NotFoundError(absl::StrCat(
        path, " has no config.json, but a .pth: import that: ", "--from ", JoinPath(path, name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Source> OpenFolder(const std::string& path) {
  Source source;
  RETURN_IF_ERROR(CheckModelFolder(path));
  ASSIGN_OR_RETURN(source.folder, OpenModelFolder(path));
  ModelFolder& folder = *source.folder;
  if (folder.lora_rank > 0) source.notes.push_back("its LoRA adapters were merged into the base");
  RETURN_IF_ERROR(MergeLora(&folder));
  source.config = folder.config;
  source.prompt_style = folder.prompt_style;
  for (const ExpectedTensor& expected : ExpectedTensors(folder.config)) {
    source.tensors.push_back(*folder.Find(expected.name));
    source.tensors.back().name = expected.name;
  }
  ASSIGN_OR_RETURN(source.generation_config, GenerationConfigOf(folder));
  if (!folder.tokenizer_path.empty()) {
    ASSIGN_OR_RETURN(TokenizerFiles files, ReadTokenizerFiles(folder.tokenizer_path));
    source.tokenizer = std::move(files.texts);
  }
  for (const std::string& warning : folder.warnings) {
    if (!warning.starts_with("no tokenizer.json")) source.notes.push_back(warning);
  }
  return source;
}

absl::StatusOr<Source> OpenGguf(const std::string& path) {
  Source source;
  ASSIGN_OR_RETURN(source.gguf, ReadGgufModel(path));
  source.config = source.gguf->config;
  source.tensors = source.gguf->tensors;
  source.tokenizer = source.gguf->tokenizer;
  source.tokenizer_status = source.gguf->tokenizer_status;
  RETURN_IF_ERROR(SelectTensors(&source)) << path;
  return source;
}

absl::StatusOr<Source> OpenBare(const std::string& path, const ShapeHints& hints) {
  Source source;
  ASSIGN_OR_RETURN(source.named, NamedTensors::Open(path));
  source.tensors.assign(source.named->tensors().begin(), source.named->tensors().end());
  std::string module;
  const auto adapters = static_cast<size_t>(
      std::count_if(source.tensors.begin(), source.tensors.end(),
                    [&](const TensorView& view) { return ParseLoraName(view.name, &module); }));
  if (adapters > 0 && adapters == source.tensors.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        " holds LoRA adapters, no model; name it where a base is loaded: `mindforge model "
        "deploy --lora`"));
  }
  absl::StatusOr<ModelConfig> config = InferModelConfig(source.tensors, hints, &source.notes);
  RETURN_IF_ERROR(config.status()) << path;
  source.config = *std::move(config);
  RETURN_IF_ERROR(SelectTensors(&source)) << path;
  source.prompt_style = NameOf(path).starts_with(kPretrained) ? kCompletionStyle : kChatStyle;
  source.notes.push_back(absl::StrCat("assumed: prompt style ", source.prompt_style,
                                      ", by the file's name (--prompt-style says otherwise)"));
  return source;
}

absl::Status AddTokenizer(const ImportOptions& options, Source* source) {
  if (!options.tokenizer.empty()) {
    ASSIGN_OR_RETURN(TokenizerFiles files, ReadTokenizerFiles(options.tokenizer));
    source->tokenizer = std::move(files.texts);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(source->tokenizer_status) << options.from;
  if (source->tokenizer.empty()) {
    source->notes.push_back(
        "there is no tokenizer: only token ids can be prompts; --tokenizer DIR adds one");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImportResult> ImportModel(const ImportOptions& options) {
  if (!PathExists(options.from)) {
    return absl::NotFoundError(absl::StrCat("there is no ", options.from));
  }
  const bool folder = IsFolder(options.from);
  const bool gguf = !folder && IsGguf(options.from);
  RETURN_IF_ERROR(CheckFlags(options, /*says_its_shape=*/folder || gguf));
  absl::StatusOr<Source> opened = folder ? OpenFolder(options.from)
                                  : gguf ? OpenGguf(options.from)
                                         : OpenBare(options.from, options.shape);
  RETURN_IF_ERROR(opened.status());
  Source source = *std::move(opened);
  RETURN_IF_ERROR(AddTokenizer(options, &source));
  if (!options.prompt_style.empty()) source.prompt_style = options.prompt_style;
  ModelFolderContents contents;
  contents.config = ModelConfigToJson(source.config);
  contents.dtype = options.dtype;
  const bool loadable =
      std::all_of(source.tensors.begin(), source.tensors.end(),
                  [](const TensorView& view) { return IsWeightDType(view.dtype); });
  if (!loadable && !contents.dtype.has_value()) contents.dtype = DType::kF32;
  const DType stored = source.tensors.empty() ? DType::kF32 : source.tensors[0].dtype;
  contents.config["torch_dtype"] = std::string(WeightDTypeName(contents.dtype.value_or(stored)));
  if (!source.prompt_style.empty()) contents.config[kPromptStyleField] = source.prompt_style;
  contents.generation_config = source.generation_config.is_null()
                                   ? DefaultGenerationConfig(source.config)
                                   : source.generation_config;
  contents.tensors = source.tensors;
  contents.texts = source.tokenizer;
  RETURN_IF_ERROR(WriteModelFolder(options.out, contents, options.overwrite));
  return ImportResult{.config = source.config, .notes = std::move(source.notes)};
}

}  // namespace mindforge
