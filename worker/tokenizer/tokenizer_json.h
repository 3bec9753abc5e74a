// tokenizer.json and tokenizer_config.json, checked and turned into plain values. It does not
// encode or decode.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/added_tokens.h"
#include "worker/tokenizer/bpe_model.h"

namespace mindforge {

struct TokenizerDefinition {
  std::unordered_map<std::string, int32_t> ids;  // by token, added ones included
  std::vector<std::string> tokens;               // by id; empty where there is none
  std::array<int32_t, 256> byte_ids{};
  std::vector<BpeMerge> merges;
  std::vector<AddedToken> added;
  bool ignore_merges = false;
  bool add_prefix_space = false;
  bool use_regex = true;
};

// INVALID_ARGUMENT says what is missing, of a wrong type or not supported, and the remedy.
absl::StatusOr<TokenizerDefinition> ParseTokenizerJson(std::string_view text);

// The names that transformers gives a meaning: what renders a chat, and one with tools.
inline constexpr char kDefaultTemplate[] = "default";
inline constexpr char kToolUseTemplate[] = "tool_use";

struct TokenizerConfig {
  std::string bos_token;
  std::string eos_token;
  std::string pad_token;
  std::map<std::string, std::string> chat_templates;  // by name; a single one is "default"
  std::string chat_template_problem;  // why some or all of them cannot be read; "" when all can
};

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view text);

}  // namespace mindforge
