// A byte-level BPE vocabulary from tokenizer.json to GGUF's metadata and back. It does not encode:
// it checks that llama.cpp's GPT-2 tokenizer gives the same ids as the file's own.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/formats/gguf.h"
#include "worker/formats/model_config.h"

namespace mindforge {

// Adds tokenizer.ggml.* for a model of `config`; ids that the tokenizer leaves free become unused
// tokens. `config_json` is tokenizer_config.json (null when there is none). INVALID_ARGUMENT: a
// tokenizer that llama.cpp would split otherwise, or with more ids than the model; what and why.
absl::Status AddGgufTokenizer(const nlohmann::json& tokenizer_json,
                              const nlohmann::json& config_json, const ModelConfig& config,
                              const std::string& chat_template, GgufMetadata* metadata);

// tokenizer.json and tokenizer_config.json, by file name, from a file's metadata. Empty when it has
// no tokenizer. INVALID_ARGUMENT: one that is not GPT-2's kind.
absl::StatusOr<std::map<std::string, std::string>> TokenizerFromGguf(
    const nlohmann::json& metadata);

// A value of the metadata for messages: its texts need not be UTF-8, and may be long.
std::string Shown(const nlohmann::json& value);

}  // namespace mindforge
