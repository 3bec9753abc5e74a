// The files of a tokenizer beside a model: tokenizer.json, tokenizer_config.json,
// chat_template.jinja and additional_chat_templates/tool_use.jinja. They are copied and looked into
// here, never used to encode.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace mindforge {

struct TokenizerFiles {
  std::map<std::string, std::string> texts;  // by file name, with its sub-folder, those that exist
  nlohmann::json tokenizer;                  // tokenizer.json
  nlohmann::json config;                     // tokenizer_config.json; null when there is none
  std::string chat_template;                 // chat_template.jinja, else the configuration's, or ""
};

// `path` is a folder with a tokenizer.json, or such a file under any name that ends in .json; the
// others are looked for beside it. NOT_FOUND: no such file. INVALID_ARGUMENT: not JSON.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& path);

// What AutoTokenizer of transformers needs besides tokenizer.json, for a folder that lacks it.
nlohmann::json DefaultTokenizerConfig(const nlohmann::json& tokenizer, int64_t bos_id,
                                      int64_t eos_id, int64_t pad_id);

}  // namespace mindforge
