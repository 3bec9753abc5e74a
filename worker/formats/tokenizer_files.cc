#include "worker/formats/tokenizer_files.h"

#include <array>
#include <utility>

#include "common/durable_file.h"
#include "common/json_parse.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint_names.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = size_t{256} << 20;
constexpr char kTokenizerName[] = "tokenizer.json";
constexpr char kConfigName[] = "tokenizer_config.json";
constexpr char kTemplateName[] = "chat_template.jinja";
constexpr std::array kNames = {kTokenizerName, kConfigName, kTemplateName};

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& path) {
  const std::string folder = path.ends_with(".json") ? ParentOf(path) : path;
  TokenizerFiles files;
  for (const char* const name : kNames) {
    absl::StatusOr<std::string> text = ReadFile(JoinPath(folder, name), kMaxBytes);
    if (absl::IsNotFound(text.status()) && name != kTokenizerName) continue;
    RETURN_IF_ERROR(text.status());
    files.texts[name] = *std::move(text);
  }
  ASSIGN_OR_RETURN(files.tokenizer,
                   ParseJson(files.texts[kTokenizerName], JoinPath(folder, kTokenizerName)));
  if (const auto it = files.texts.find(kConfigName); it != files.texts.end()) {
    ASSIGN_OR_RETURN(files.config, ParseJson(it->second, JoinPath(folder, kConfigName)));
    const Json chat =
        files.config.is_object() ? files.config.value("chat_template", Json()) : Json();
    if (chat.is_string()) files.chat_template = chat.get<std::string>();
  }
  if (files.chat_template.empty() && files.texts.contains(kTemplateName)) {
    files.chat_template = files.texts[kTemplateName];
  }
  return files;
}

Json DefaultTokenizerConfig(const Json& tokenizer, int64_t bos_id, int64_t eos_id, int64_t pad_id) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_bos_token", false},
                 {"add_eos_token", false},
                 {"clean_up_tokenization_spaces", false}};
  if (!tokenizer.is_object()) return config;
  for (const Json& added : tokenizer.value("added_tokens", Json::array())) {
    if (!added.is_object() || !added.value("content", Json()).is_string()) continue;
    const Json id = added.value("id", Json());
    if (id == bos_id) config["bos_token"] = added["content"];
    if (id == eos_id) config["eos_token"] = added["content"];
    if (id == pad_id) config["pad_token"] = added["content"];
  }
  return config;
}

}  // namespace mindforge
