#include "worker/tokenizer/tokenizer_json.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/json_parse.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/byte_alphabet.h"
#include "worker/tokenizer/utf8.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTokenId = (1 << 24) - 1;

absl::Status Invalid(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", what));
}

absl::Status Unsupported(const std::string& what) {
  return Invalid(absl::StrCat(
      what,
      " is not supported; use a byte-level BPE tokenizer with GPT-2's split pattern, such as "
      "MiniMind's or one made by `mindforge tokenizer train`"));
}

// The member, or null when it is absent.
const Json& Member(const Json& object, const char* name) {
  static const Json kNull;
  const auto it = object.find(name);
  return it == object.end() ? kNull : *it;
}

std::string TypeOf(const Json& object) {
  const Json& type = Member(object, "type");
  return type.is_string() ? type.get<std::string>() : "without a type";
}

absl::StatusOr<bool> Flag(const Json& object, const char* name, bool fallback) {
  const Json& value = Member(object, name);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    return Invalid(absl::StrCat("`", name, "` must be true or false, it is ", value.type_name()));
  }
  return value.get<bool>();
}

// What is left of a step of the pipeline once Sequences that change nothing are gone: an empty one
// is no step, a Sequence of one is that one. `list` is the member that holds a Sequence's steps.
absl::StatusOr<Json> Unwrap(const Json& step, const char* list, int depth = 0) {
  constexpr int kMaxDepth = 32;
  if (!step.is_object() || TypeOf(step) != "Sequence") return step;
  const Json& steps = Member(step, list);
  if (!steps.is_array()) return Invalid(absl::StrCat("a Sequence must have a list `", list, "`"));
  if (depth == kMaxDepth) return Unsupported("a Sequence this deep");
  Json left;
  for (const Json& inner : steps) {
    ASSIGN_OR_RETURN(Json one, Unwrap(inner, list, depth + 1));
    if (one.is_null()) continue;
    if (!left.is_null()) {
      return Unsupported(absl::StrCat("a Sequence of more than one of `", list, "`"));
    }
    left = std::move(one);
  }
  return left;
}

absl::Status ParsePipeline(const Json& root, TokenizerDefinition* out) {
  ASSIGN_OR_RETURN(const Json normalizer, Unwrap(Member(root, "normalizer"), "normalizers"));
  if (!normalizer.is_null()) return Unsupported(absl::StrCat("normalizer ", TypeOf(normalizer)));
  ASSIGN_OR_RETURN(const Json split, Unwrap(Member(root, "pre_tokenizer"), "pretokenizers"));
  if (!split.is_object()) return Unsupported("a tokenizer without pre_tokenizer");
  if (TypeOf(split) != "ByteLevel") {
    return Unsupported(absl::StrCat("pre_tokenizer ", TypeOf(split)));
  }
  ASSIGN_OR_RETURN(out->add_prefix_space, Flag(split, "add_prefix_space", true));
  ASSIGN_OR_RETURN(out->use_regex, Flag(split, "use_regex", true));
  ASSIGN_OR_RETURN(const Json post, Unwrap(Member(root, "post_processor"), "processors"));
  if (!post.is_null() && (!post.is_object() || TypeOf(post) != "ByteLevel")) {
    return Unsupported(absl::StrCat("post_processor ", post.is_object() ? TypeOf(post) : ""));
  }
  ASSIGN_OR_RETURN(const Json decoder, Unwrap(Member(root, "decoder"), "decoders"));
  if (!decoder.is_object()) return Unsupported("a tokenizer without decoder");
  if (TypeOf(decoder) != "ByteLevel") {
    return Unsupported(absl::StrCat("decoder ", TypeOf(decoder)));
  }
  return absl::OkStatus();
}

absl::Status ParseModelFlags(const Json& model, TokenizerDefinition* out) {
  // Old files leave the type out; then only BPE has merges.
  const Json& type = Member(model, "type");
  if (type.is_string() && type.get<std::string>() != "BPE") {
    return Unsupported(absl::StrCat("model ", type.get<std::string>()));
  }
  const Json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    return Unsupported("BPE dropout");
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& affix = Member(model, name);
    if (!affix.is_null() && affix != "") return Unsupported(name);
  }
  ASSIGN_OR_RETURN(const bool byte_fallback, Flag(model, "byte_fallback", false));
  if (byte_fallback) return Unsupported("byte_fallback");
  ASSIGN_OR_RETURN(out->ignore_merges, Flag(model, "ignore_merges", false));
  return absl::OkStatus();
}

absl::Status AddToken(std::string token, int64_t id, TokenizerDefinition* out) {
  if (id < 0 || id > kMaxTokenId) {
    return Invalid(
        absl::StrCat("token \"", token, "\" has id ", id, "; ids go from 0 to ", kMaxTokenId));
  }
  if (static_cast<size_t>(id) >= out->tokens.size()) out->tokens.resize(id + 1);
  std::string& slot = out->tokens[id];
  if (!slot.empty() && slot != token) {
    return Invalid(absl::StrCat("id ", id, " stands for both \"", slot, "\" and \"", token, "\""));
  }
  slot = token;
  out->ids.emplace(std::move(token), static_cast<int32_t>(id));
  return absl::OkStatus();
}

absl::Status ParseVocab(const Json& model, TokenizerDefinition* out) {
  const Json& vocab = Member(model, "vocab");
  if (!vocab.is_object() || vocab.empty()) {
    return Invalid("`model.vocab` must be an object of token: id");
  }
  out->ids.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer()) {
      return Invalid(absl::StrCat("`model.vocab`: the id of \"", token, "\" must be an integer"));
    }
    if (token.empty()) return Invalid("`model.vocab` holds an empty token");
    RETURN_IF_ERROR(AddToken(token, id.get<int64_t>(), out));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    const std::string spelling = SpellBytes({&raw, 1});
    const auto it = out->ids.find(spelling);
    if (it == out->ids.end()) {
      return Unsupported(absl::StrCat("`model.vocab` without the byte ", byte, " (\"", spelling,
                                      "\"), which cannot spell every text,"));
    }
    out->byte_ids[byte] = it->second;
  }
  return absl::OkStatus();
}

// A merge is ["a", "b"], or "a b" in older files.
absl::Status SplitMerge(const Json& merge, size_t rank, std::string* left, std::string* right) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    *left = merge[0].get<std::string>();
    *right = merge[1].get<std::string>();
    return absl::OkStatus();
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      *left = text.substr(0, space);
      *right = text.substr(space + 1);
      return absl::OkStatus();
    }
  }
  return Invalid(absl::StrCat("`model.merges[", rank, "]` must be a pair of tokens"));
}

absl::Status ParseMerges(const Json& model, TokenizerDefinition* out) {
  const Json& merges = Member(model, "merges");
  if (!merges.is_array()) return Invalid("`model.merges` must be a list of pairs");
  out->merges.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    std::string left;
    std::string right;
    RETURN_IF_ERROR(SplitMerge(merges[rank], rank, &left, &right));
    const auto id_of = [&](const std::string& token) {
      const auto it = out->ids.find(token);
      return it == out->ids.end() ? -1 : it->second;
    };
    const BpeMerge merge{id_of(left), id_of(right), id_of(left + right)};
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
      const std::string& absent = merge.left < 0 ? left : merge.right < 0 ? right : left + right;
      return Invalid(absl::StrCat("`model.merges[", rank, "]` needs the token \"", absent,
                                  "\", which `model.vocab` lacks"));
    }
    out->merges.push_back(merge);
  }
  return absl::OkStatus();
}

absl::Status ParseAddedToken(const Json& entry, size_t index, TokenizerDefinition* out) {
  const std::string where = absl::StrCat("`added_tokens[", index, "]`");
  if (!entry.is_object() || !Member(entry, "content").is_string() ||
      !Member(entry, "id").is_number_integer()) {
    return Invalid(absl::StrCat(where, " must be an object with a string `content` and an `id`"));
  }
  AddedToken token;
  token.content = entry["content"].get<std::string>();
  if (token.content.empty()) return Invalid(absl::StrCat(where, " has an empty `content`"));
  ASSIGN_OR_RETURN(const bool single_word, Flag(entry, "single_word", false));
  if (single_word) return Unsupported(absl::StrCat(where, " with single_word"));
  ASSIGN_OR_RETURN(token.left_strip, Flag(entry, "lstrip", false));
  ASSIGN_OR_RETURN(token.right_strip, Flag(entry, "rstrip", false));
  ASSIGN_OR_RETURN(token.normalized, Flag(entry, "normalized", true));
  ASSIGN_OR_RETURN(token.special, Flag(entry, "special", false));
  const auto id = entry["id"].get<int64_t>();
  if (const auto it = out->ids.find(token.content); it != out->ids.end() && it->second != id) {
    return Invalid(absl::StrCat(where, " \"", token.content, "\" has id ", id,
                                ", in `model.vocab` it has ", it->second));
  }
  RETURN_IF_ERROR(AddToken(token.content, id, out));
  token.id = static_cast<int32_t>(id);
  out->added.push_back(std::move(token));
  return absl::OkStatus();
}

// A token's name in tokenizer_config.json: a string, or an object with `content`.
std::string TokenName(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && Member(value, "content").is_string()) {
    return value["content"].get<std::string>();
  }
  return "";
}

// A string, a list of {name, template}, or an object of templates by name. One that is none of
// these is a problem of chats alone.
void ParseChatTemplates(const Json& value, TokenizerConfig* config) {
  std::map<std::string, std::string>& templates = config->chat_templates;
  const auto add = [&](const Json& name, const Json& source) {
    if (name.is_string() && source.is_string()) {
      templates[name.get<std::string>()] = source.get<std::string>();
    } else {
      config->chat_template_problem =
          "tokenizer_config.json: `chat_template` must be a string, or a list of objects with a "
          "`name` and a `template`";
    }
  };
  if (value.is_null()) return;
  if (value.is_array()) {
    for (const Json& entry : value) add(Member(entry, "name"), Member(entry, "template"));
  } else if (value.is_object()) {
    for (const auto& [name, source] : value.items()) add(name, source);
  } else {
    add(kDefaultTemplate, value);
  }
}

}  // namespace

absl::StatusOr<TokenizerDefinition> ParseTokenizerJson(std::string_view text) {
  ASSIGN_OR_RETURN(const Json root, ParseJson(text, "tokenizer.json"));
  if (!root.is_object())
    return Invalid(absl::StrCat("must be an object, it is ", root.type_name()));
  const Json& model = Member(root, "model");
  if (!model.is_object()) return Invalid("`model` is missing or no object");
  TokenizerDefinition out;
  RETURN_IF_ERROR(ParseModelFlags(model, &out));
  RETURN_IF_ERROR(ParsePipeline(root, &out));
  RETURN_IF_ERROR(ParseVocab(model, &out));
  RETURN_IF_ERROR(ParseMerges(model, &out));
  const Json& added = Member(root, "added_tokens");
  if (!added.is_null() && !added.is_array()) return Invalid("`added_tokens` must be a list");
  for (size_t i = 0; i < added.size(); ++i) RETURN_IF_ERROR(ParseAddedToken(added[i], i, &out));
  return out;
}

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(std::string_view text) {
  ASSIGN_OR_RETURN(const Json root, ParseJson(text, "tokenizer_config.json"));
  if (!root.is_object()) {
    return absl::InvalidArgumentError("tokenizer_config.json: must be an object");
  }
  TokenizerConfig config;
  config.bos_token = TokenName(Member(root, "bos_token"));
  config.eos_token = TokenName(Member(root, "eos_token"));
  config.pad_token = TokenName(Member(root, "pad_token"));
  ParseChatTemplates(Member(root, "chat_template"), &config);
  return config;
}

}  // namespace mindforge
