#include "worker/formats/hf_folder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/formats/config_json.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/json_file.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

absl::Status OpenWeights(ModelFolder* folder) {
  ASSIGN_OR_RETURN(folder->stored, NamedTensors::Open(folder->path));
  for (const TensorView& tensor : folder->stored->tensors()) {
    folder->tensors.emplace(tensor.name, &tensor);
  }
  return absl::OkStatus();
}

// A tied matrix may be stored as embedding, as head or as both.
void ResolveTiedHead(ModelFolder* folder) {
  if (!folder->config.tie_word_embeddings) return;
  const TensorView* const embedding = folder->Find(kEmbedding);
  const TensorView* const head = folder->Find(kHead);
  if (embedding == nullptr && head != nullptr) folder->tensors[kEmbedding] = head;
  if (embedding != nullptr) folder->tensors[kHead] = embedding;
}

// The adapters of one square projection each; see lora.h for their names.
void ExpectLora(const ModelFolder& folder, const ExpectedTensor& base,
                std::vector<ExpectedTensor>* out) {
  constexpr std::string_view kSuffix = "_proj.weight";
  if (folder.lora_rank == 0 || !base.name.ends_with(kSuffix) || base.shape[0] != base.shape[1]) {
    return;
  }
  const std::string module = base.name.substr(0, base.name.rfind('.'));
  out->push_back({module + ".lora.A.weight", {folder.lora_rank, base.shape[1]}});
  out->push_back({module + ".lora.B.weight", {base.shape[0], folder.lora_rank}});
}

std::vector<ExpectedTensor> WithLora(const ModelFolder& folder) {
  std::vector<ExpectedTensor> expected = ExpectedTensors(folder.config);
  std::vector<ExpectedTensor> adapters;
  for (const ExpectedTensor& base : expected) ExpectLora(folder, base, &adapters);
  expected.insert(expected.end(), adapters.begin(), adapters.end());
  return expected;
}

absl::Status CheckTensors(ModelFolder* folder) {
  const std::vector<ExpectedTensor> expected = WithLora(*folder);
  std::vector<std::string> problems = Misfits(expected, folder->tensors);
  for (const ExpectedTensor& one : expected) {
    const TensorView* const tensor = folder->Find(one.name);
    if (tensor != nullptr && !IsWeightDType(tensor->dtype)) {
      problems.push_back(absl::StrCat(one.name, " is ", std::string(DTypeName(tensor->dtype)),
                                      ", only F32, F16 and BF16 can be loaded"));
    }
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(folder->path, ": the weights do not fit config.json: ", ListSome(problems, "; "),
                   ". Check that config.json belongs to these weights"));
}

// Reads `name` as T when it is there; a wrong type is added to `problems`.
template <typename T>
void ReadOptional(const Json& json, const char* name, std::optional<T>* out,
                  std::vector<std::string>* problems) {
  const auto it = json.find(name);
  if (it == json.end() || it->is_null()) return;
  const bool fits = std::is_same_v<T, bool>      ? it->is_boolean()
                    : std::is_same_v<T, int64_t> ? it->is_number_integer()
                                                 : it->is_number();
  if (fits) {
    *out = it->get<T>();
  } else {
    problems->push_back(absl::StrCat("`", name, "` is of a wrong type (", it->type_name(), ")"));
  }
}

void ReadEosIds(const Json& json, std::vector<int64_t>* ids, std::vector<std::string>* problems) {
  const auto it = json.find("eos_token_id");
  if (it == json.end() || it->is_null()) return;
  for (const Json& id : it->is_array() ? *it : Json::array({*it})) {
    if (id.is_number_integer()) {
      ids->push_back(id.get<int64_t>());
    } else {
      problems->push_back("`eos_token_id` must be an integer or a list of integers");
    }
  }
}

// What Mindforge itself writes into config.json beside the model's shape.
absl::Status ReadOwnFields(const Json& config, ModelFolder* folder) {
  if (const Json rank = config.value(kLoraRankField, Json(0)); !rank.is_null()) {
    if (!rank.is_number_integer() || rank.get<int64_t>() < 0 ||
        rank.get<int64_t>() > folder->config.hidden_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(kLoraRankField, " must be from 0 to hidden_size, it is ", rank.dump()));
    }
    folder->lora_rank = rank.get<int64_t>();
  }
  if (const Json style = config.value(kPromptStyleField, Json()); !style.is_null()) {
    if (style != kCompletionStyle && style != kChatStyle) {
      return absl::InvalidArgumentError(absl::StrCat(
          kPromptStyleField, " must be \"", kCompletionStyle, "\" or \"", kChatStyle, "\""));
    }
    folder->prompt_style = style.get<std::string>();
  }
  return absl::OkStatus();
}

absl::Status ReadGeneration(const Json& config_json, ModelFolder* folder) {
  const absl::StatusOr<Json> json = ReadJsonFile(JoinPath(folder->path, "generation_config.json"));
  if (json.ok()) {
    ASSIGN_OR_RETURN(folder->generation, ParseGenerationConfig(*json));
  } else if (!absl::IsNotFound(json.status())) {
    return json.status();
  }
  std::vector<int64_t>& eos = folder->generation.eos_token_ids;
  if (eos.empty()) {
    std::vector<std::string> ignored;  // config.json was checked before
    ReadEosIds(config_json, &eos, &ignored);
  }
  if (eos.empty()) eos.push_back(folder->config.eos_token_id);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationDefaults> ParseGenerationConfig(const Json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError("generation_config.json: must be an object");
  }
  GenerationDefaults values;
  std::vector<std::string> problems;
  ReadOptional(json, "do_sample", &values.do_sample, &problems);
  ReadOptional(json, "temperature", &values.temperature, &problems);
  ReadOptional(json, "top_p", &values.top_p, &problems);
  ReadOptional(json, "top_k", &values.top_k, &problems);
  ReadOptional(json, "min_p", &values.min_p, &problems);
  ReadOptional(json, "repetition_penalty", &values.repetition_penalty, &problems);
  ReadOptional(json, "max_new_tokens", &values.max_new_tokens, &problems);
  ReadEosIds(json, &values.eos_token_ids, &problems);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("generation_config.json: ", absl::StrJoin(problems, "; ")));
  }
  return values;
}

Json DefaultGenerationConfig(const ModelConfig& config) {
  return {{"do_sample", true},
          {"temperature", 0.85},
          {"top_p", 0.85},
          {"top_k", 50},
          {"bos_token_id", config.bos_token_id},
          {"eos_token_id", config.eos_token_id},
          {"pad_token_id", config.pad_token_id}};
}

absl::StatusOr<Json> GenerationConfigOf(const ModelFolder& folder) {
  absl::StatusOr<Json> json = ReadJsonFile(JoinPath(folder.path, "generation_config.json"));
  if (absl::IsNotFound(json.status())) json = DefaultGenerationConfig(folder.config);
  const std::vector<int64_t>& eos = folder.generation.eos_token_ids;
  if (json.ok() && json->is_object() && eos.size() > 1) (*json)["eos_token_id"] = eos;
  return json;
}

const TensorView* ModelFolder::Find(std::string_view name) const {
  const auto it = tensors.find(std::string(name));
  return it == tensors.end() ? nullptr : it->second;
}

void ModelFolder::Replace(const std::string& name, const std::vector<int64_t>& shape,
                          std::vector<float> values) {
  Owned& owned = owned_.emplace_back();
  owned.values = std::move(values);
  owned.view = {.name = name,
                .dtype = DType::kF32,
                .shape = shape,
                .data = owned.values.data(),
                .bytes = static_cast<int64_t>(owned.values.size() * sizeof(float))};
  tensors[name] = &owned.view;
}

absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& path) {
  ModelFolder folder;
  folder.path = path;
  if (!PathExists(path)) return absl::NotFoundError(absl::StrCat("no model folder ", path));
  absl::StatusOr<Json> config = ReadJsonFile(JoinPath(path, "config.json"));
  if (absl::IsNotFound(config.status())) {
    return absl::NotFoundError(absl::StrCat(
        path, " has no config.json; name a Hugging Face model folder or a checkpoint folder"));
  }
  RETURN_IF_ERROR(config.status());
  RETURN_IF_ERROR(OpenWeights(&folder));
  absl::StatusOr<ModelConfig> read =
      ReadModelConfig(*config, ShownBy(FinderIn(folder.tensors)), &folder.warnings);
  RETURN_IF_ERROR(read.status()) << path << "/config.json";
  folder.config = *std::move(read);
  RETURN_IF_ERROR(ReadOwnFields(*config, &folder)) << path << "/config.json";
  ResolveTiedHead(&folder);
  RETURN_IF_ERROR(CheckTensors(&folder));
  RETURN_IF_ERROR(ReadGeneration(*config, &folder)) << path;
  if (PathExists(JoinPath(path, "tokenizer.json"))) {
    folder.tokenizer_path = path;
  } else {
    folder.warnings.push_back("no tokenizer.json: prompts must be token ids");
  }
  return folder;
}

}  // namespace mindforge
