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
constexpr std::array kNames = {kTokenizerName, kConfigName, kTemplateName,
                               "additional_chat_templates/tool_use.jinja"};

// A string, or the one named so of a list of {name, template}.
std::string DefaultTemplate(const Json& config) {
  const Json chat = config.is_object() ? config.value("chat_template", Json()) : Json();
  if (chat.is_string()) return chat.get<std::string>();
  if (!chat.is_array()) return "";
  for (const Json& entry : chat) {
    if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
    if (const Json source = entry.value("template", Json()); source.is_string()) {
      return source.get<std::string>();
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& path) {
  const bool is_file = path.ends_with(".json");
  const std::string folder = is_file ? ParentOf(path) : path;
  TokenizerFiles files;
  for (const char* const name : kNames) {
    const bool is_main = name == kNames[0];
    const std::string source = is_main && is_file ? path : JoinPath(folder, name);
    absl::StatusOr<std::string> text = ReadFile(source, kMaxBytes);
    if (absl::IsNotFound(text.status()) && !is_main) continue;
    RETURN_IF_ERROR(text.status());
    if (is_main) {
      ASSIGN_OR_RETURN(files.tokenizer, ParseJson(*text, source));
    } else if (name == std::string_view(kConfigName)) {
      ASSIGN_OR_RETURN(files.config, ParseJson(*text, source));
      files.chat_template = DefaultTemplate(files.config);
    } else if (name == std::string_view(kTemplateName) && !text->empty()) {
      files.chat_template = *text;
    }
    files.texts[name] = *std::move(text);
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
