#include "worker/formats/gguf_tokenizer.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr int32_t kNormal = 1;
constexpr int32_t kControl = 3;
constexpr int32_t kUserDefined = 4;
constexpr int32_t kUnused = 5;
constexpr int64_t kMaxVocabulary = 4'000'000;
constexpr char kRemedy[] = "; give llama.cpp another tokenizer, or export as hf or pth";

absl::Status Unsuitable(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", what, kRemedy));
}

// The member under a path of keys; null when one of them is missing.
Json At(const Json& json, std::initializer_list<const char*> keys) {
  const Json* at = &json;
  for (const char* const key : keys) {
    if (!at->is_object() || !at->contains(key)) return Json();
    at = &(*at)[key];
  }
  return *at;
}

// llama.cpp's "gpt-2" splits by GPT-2's pattern, adds no space and normalizes nothing.
absl::Status CheckPipeline(const Json& json) {
  if (At(json, {"model", "type"}) != "BPE") return Unsuitable("its model is not BPE");
  if (!At(json, {"normalizer"}).is_null()) return Unsuitable("it normalizes text");
  const Json splitter = At(json, {"pre_tokenizer"});
  if (At(splitter, {"type"}) != "ByteLevel" || At(splitter, {"use_regex"}) == false) {
    return Unsuitable("it does not split text by GPT-2's pattern");
  }
  if (At(splitter, {"add_prefix_space"}) != false) {
    return Unsuitable("it puts a space in front of every text");
  }
  if (At(json, {"model", "ignore_merges"}) == true) {
    return Unsuitable("it looks up whole words before it merges (ignore_merges)");
  }
  return absl::OkStatus();
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
};

absl::Status Place(const std::string& token, const Json& id, int32_t type, Vocabulary* vocabulary) {
  const auto size = static_cast<int64_t>(vocabulary->tokens.size());
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= size) {
    return Unsuitable(absl::StrCat("token \"", token, "\" has id ", id.dump(),
                                   " but the model's vocab_size is ", size));
  }
  vocabulary->tokens[id.get<size_t>()] = token;
  vocabulary->types[id.get<size_t>()] = type;
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ReadVocabulary(const Json& json, int64_t vocab_size) {
  Vocabulary vocabulary;
  vocabulary.tokens.resize(static_cast<size_t>(vocab_size));
  vocabulary.types.resize(static_cast<size_t>(vocab_size), kUnused);
  const Json entries = At(json, {"model", "vocab"});
  if (!entries.is_object()) return Unsuitable("it has no vocabulary");
  for (const auto& [token, id] : entries.items()) {
    RETURN_IF_ERROR(Place(token, id, kNormal, &vocabulary));
  }
  for (const Json& added : json.value("added_tokens", Json::array())) {
    const Json content = At(added, {"content"});
    if (!content.is_string()) return Unsuitable("an added token has no content");
    const int32_t type = At(added, {"special"}) == true ? kControl : kUserDefined;
    RETURN_IF_ERROR(Place(content.get<std::string>(), At(added, {"id"}), type, &vocabulary));
  }
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.types[i] == kUnused) vocabulary.tokens[i] = absl::StrCat("[PAD", i, "]");
  }
  return vocabulary;
}

absl::StatusOr<std::vector<std::string>> ReadMerges(const Json& json) {
  const Json merges = At(json, {"model", "merges"});
  if (!merges.is_array()) return Unsuitable("it has no merges");
  std::vector<std::string> lines;
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      lines.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      lines.push_back(absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>()));
    } else {
      return Unsuitable(absl::StrCat("merge ", lines.size(), " is no pair"));
    }
  }
  return lines;
}

// The id of tokenizer_config.json's `field`, which may be text or an object; else `otherwise`.
int64_t SpecialId(const Json& config, const char* field, const Vocabulary& vocabulary,
                  int64_t otherwise) {
  Json token = At(config, {field});
  if (token.is_object()) token = At(token, {"content"});
  if (!token.is_string()) return otherwise;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.types[i] != kUnused && token == vocabulary.tokens[i]) {
      return static_cast<int64_t>(i);
    }
  }
  return otherwise;
}

Json AddedToken(size_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// tokenizer_config.json of a GGUF file's tokenizer.
Json ConfigFromGguf(const Json& metadata, const Json& tokens) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_bos_token", metadata.value("tokenizer.ggml.add_bos_token", Json(false))},
                 {"clean_up_tokenization_spaces", false}};
  for (const auto& [field, key] :
       {std::pair{"bos_token", "bos"}, std::pair{"eos_token", "eos"},
        std::pair{"pad_token", "padding"}, std::pair{"unk_token", "unknown"}}) {
    const Json id = metadata.value(absl::StrCat("tokenizer.ggml.", key, "_token_id"), Json());
    if (id.is_number_unsigned() && id.get<uint64_t>() < tokens.size()) {
      config[field] = tokens[id.get<size_t>()];
    }
  }
  const Json chat = metadata.value("tokenizer.chat_template", Json());
  if (chat.is_string()) config["chat_template"] = chat;
  return config;
}

}  // namespace

std::string Shown(const Json& value) {
  constexpr size_t kMostBytes = 200;
  return Truncate(value.dump(-1, ' ', false, Json::error_handler_t::replace), kMostBytes);
}

absl::Status AddGgufTokenizer(const Json& tokenizer_json, const Json& config_json,
                              const ModelConfig& config, const std::string& chat_template,
                              GgufMetadata* metadata) {
  RETURN_IF_ERROR(CheckPipeline(tokenizer_json));
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(tokenizer_json, config.vocab_size));
  ASSIGN_OR_RETURN(const std::vector<std::string> merges, ReadMerges(tokenizer_json));
  metadata->Text("tokenizer.ggml.model", "gpt2");
  metadata->Text("tokenizer.ggml.pre", "gpt-2");
  metadata->Texts("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata->Int32s("tokenizer.ggml.token_type", vocabulary.types);
  metadata->Texts("tokenizer.ggml.merges", merges);
  metadata->Uint32("tokenizer.ggml.bos_token_id",
                   SpecialId(config_json, "bos_token", vocabulary, config.bos_token_id));
  metadata->Uint32("tokenizer.ggml.eos_token_id",
                   SpecialId(config_json, "eos_token", vocabulary, config.eos_token_id));
  metadata->Uint32("tokenizer.ggml.padding_token_id",
                   SpecialId(config_json, "pad_token", vocabulary, config.pad_token_id));
  metadata->Bool("tokenizer.ggml.add_bos_token", false);
  metadata->Bool("tokenizer.ggml.add_eos_token", false);
  if (!chat_template.empty()) metadata->Text("tokenizer.chat_template", chat_template);
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, std::string>> TokenizerFromGguf(const Json& metadata) {
  std::map<std::string, std::string> files;
  const Json model = metadata.value("tokenizer.ggml.model", Json());
  if (model.is_null()) return files;
  const Json pre = metadata.value("tokenizer.ggml.pre", Json());
  if (model != "gpt2" || pre != "gpt-2") {
    return absl::InvalidArgumentError(absl::StrCat(
        "the file's tokenizer is ", Shown(model), " with pre-tokenizer ", Shown(pre),
        "; only gpt2 with gpt-2 can be taken over. Give the model's tokenizer: --tokenizer DIR"));
  }
  const Json tokens = metadata.value("tokenizer.ggml.tokens", Json());
  const Json types = metadata.value("tokenizer.ggml.token_type", Json());
  const Json merges = metadata.value("tokenizer.ggml.merges", Json());
  if (!tokens.is_array() || !merges.is_array() || !types.is_array() ||
      types.size() != tokens.size() || tokens.size() > kMaxVocabulary) {
    return absl::DataLossError("the file's tokenizer lacks tokens, token types or merges");
  }
  Json vocab = Json::object();
  Json added = Json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i].is_string() || !types[i].is_number_integer()) {
      return absl::DataLossError("the file's tokenizer holds what is no token");
    }
    const auto type = types[i].get<int64_t>();
    if (type == kUnused) continue;
    vocab[tokens[i].get<std::string>()] = i;
    if (type == kControl || type == kUserDefined) {
      added.push_back(AddedToken(i, tokens[i].get<std::string>(), type == kControl));
    }
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", added},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false},
                       {"vocab", vocab},
                       {"merges", merges}}}};
  constexpr auto kReplace = Json::error_handler_t::replace;
  files["tokenizer.json"] = json.dump(1, ' ', false, kReplace) + "\n";
  files["tokenizer_config.json"] =
      ConfigFromGguf(metadata, tokens).dump(2, ' ', false, kReplace) + "\n";
  return files;
}

}  // namespace mindforge
