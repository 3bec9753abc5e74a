#include "worker/formats/hf_folder.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/json_file.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

void AddMlp(const std::string& prefix, int64_t hidden, int64_t intermediate,
            std::vector<ExpectedTensor>* out) {
  out->push_back({prefix + "gate_proj.weight", {intermediate, hidden}});
  out->push_back({prefix + "up_proj.weight", {intermediate, hidden}});
  out->push_back({prefix + "down_proj.weight", {hidden, intermediate}});
}

void AddLayer(const ModelConfig& config, int64_t layer, std::vector<ExpectedTensor>* out) {
  const int64_t hidden = config.hidden_size;
  const int64_t dim = config.HeadDim();
  const int64_t query = config.num_attention_heads * dim;
  const int64_t key = config.num_key_value_heads * dim;
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  const std::string attention = prefix + "self_attn.";
  out->push_back({attention + "q_proj.weight", {query, hidden}});
  out->push_back({attention + "k_proj.weight", {key, hidden}});
  out->push_back({attention + "v_proj.weight", {key, hidden}});
  out->push_back({attention + "o_proj.weight", {hidden, query}});
  if (config.qk_norm) {
    out->push_back({attention + "q_norm.weight", {dim}});
    out->push_back({attention + "k_norm.weight", {dim}});
  }
  out->push_back({prefix + "input_layernorm.weight", {hidden}});
  out->push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  const std::string mlp = prefix + "mlp.";
  if (!config.use_moe) return AddMlp(mlp, hidden, config.IntermediateSize(), out);
  for (int64_t e = 0; e < config.n_routed_experts; ++e) {
    AddMlp(absl::StrCat(mlp, "experts.", e, "."), hidden, config.MoeIntermediateSize(), out);
  }
  out->push_back({mlp + "gate.weight", {config.n_routed_experts, hidden}});
  for (int64_t e = 0; e < config.n_shared_experts; ++e) {
    AddMlp(absl::StrCat(mlp, "shared_experts.", e, "."), hidden, config.MoeIntermediateSize(), out);
  }
}

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
  if (embedding == nullptr) return;
  const bool differs =
      head != nullptr && (head->dtype != embedding->dtype || head->bytes != embedding->bytes ||
                          std::memcmp(head->data, embedding->data, head->bytes) != 0);
  if (differs) {
    folder->warnings.push_back(
        "lm_head.weight differs from model.embed_tokens.weight although config.json ties them; the "
        "embedding is used");
  }
  folder->tensors[kHead] = embedding;
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
  std::vector<std::string> problems =
      Misfits(expected, [folder](const std::string& name) { return folder->Find(name); });
  std::set<std::string> expected_names = {kHead};
  for (const ExpectedTensor& one : expected) {
    expected_names.insert(one.name);
    const TensorView* const tensor = folder->Find(one.name);
    if (tensor != nullptr && !IsWeightDType(tensor->dtype)) {
      problems.push_back(absl::StrCat(one.name, " is ", std::string(DTypeName(tensor->dtype)),
                                      ", only F32, F16 and BF16 can be loaded"));
    }
  }
  if (!problems.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder->path, ": the weights do not fit config.json: ", ListSome(problems, "; "),
        ". Check that config.json belongs to these weights"));
  }
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : folder->tensors) {
    if (!expected_names.contains(name)) extra.push_back(name);
  }
  std::sort(extra.begin(), extra.end());
  if (!extra.empty()) {
    folder->warnings.push_back(absl::StrCat("tensors not used: ", ListSome(extra, ", ")));
  }
  return absl::OkStatus();
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

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  std::vector<ExpectedTensor> expected;
  const int64_t hidden = config.hidden_size;
  expected.push_back({kEmbedding, {config.vocab_size, hidden}});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) AddLayer(config, i, &expected);
  expected.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) expected.push_back({kHead, {config.vocab_size, hidden}});
  return expected;
}

std::vector<std::string> Misfits(const std::vector<ExpectedTensor>& expected,
                                 const std::function<const TensorView*(const std::string&)>& find) {
  std::vector<std::string> problems;
  for (const ExpectedTensor& one : expected) {
    const TensorView* const tensor = find(one.name);
    if (tensor == nullptr) {
      problems.push_back(absl::StrCat(one.name, " is missing"));
    } else if (tensor->shape != one.shape) {
      problems.push_back(absl::StrCat(one.name, " has shape ", ShapeToString(tensor->shape),
                                      ", the configuration asks for ", ShapeToString(one.shape)));
    }
  }
  return problems;
}

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
  absl::StatusOr<ModelConfig> parsed = ParseModelConfig(*config, &folder.warnings);
  RETURN_IF_ERROR(parsed.status()) << path << "/config.json";
  folder.config = *std::move(parsed);
  RETURN_IF_ERROR(ReadOwnFields(*config, &folder)) << path << "/config.json";
  RETURN_IF_ERROR(OpenWeights(&folder));
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
