#include "worker/data/conversation.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/python_json.h"

namespace mindforge {
namespace {

// Keys keep their order: a template writes tools and arguments as they stand.
using Json = nlohmann::ordered_json;

absl::Status Unusable(std::string reason) { return absl::InvalidArgumentError(std::move(reason)); }

constexpr int kMaxDepth = 256;

// Whether lists and objects are nested deeper than what a value's copy and dump, which call
// themselves for each level, may take of the stack.
bool IsTooDeep(std::string_view json) {
  int depth = 0;
  bool in_text = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') in_text = !in_text;
    if (in_text) {
      i += c == '\\';
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

std::string TooDeep() { return absl::StrCat("nested deeper than ", kMaxDepth, " levels"); }

// Null where there is none.
const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool IsEmptyText(const Json& value) {
  return value.is_string() && value.get_ref<const std::string&>().empty();
}

// Null where there is none, or an empty one.
const Json* FindList(const Json& object, const char* key) {
  const Json* const found = Find(object, key);
  if (found == nullptr || IsEmptyText(*found)) return nullptr;
  return found->is_array() && found->empty() ? nullptr : found;
}

absl::StatusOr<Json> OrderedObjectOfLine(const NumberedLine& line) {
  // The parser takes a NUL for the text's end.
  if (line.longer_than == 0 && line.text.find('\0') == std::string_view::npos) {
    if (IsTooDeep(line.text)) return Unusable(TooDeep());
    Json json = Json::parse(line.text, nullptr, /*allow_exceptions=*/false);
    if (json.is_object()) return json;
  }
  RETURN_IF_ERROR(ObjectOfLine(line).status());  // which has the words for what is wrong
  return Unusable("no JSON object");
}

// The list at `value`, or the list that its text spells.
absl::StatusOr<Json> ListAt(const Json& value, const std::string& place) {
  if (value.is_array()) return value;
  if (!value.is_string()) {
    return Unusable(absl::StrCat(place, " is ", value.type_name(), ", must be a list or its text"));
  }
  const auto& text = value.get_ref<const std::string&>();
  if (IsTooDeep(text)) return Unusable(absl::StrCat(place, " is ", TooDeep()));
  Json list = Json::parse(text, nullptr, false);
  if (list.is_array()) return list;
  return Unusable(absl::StrCat(place, " is text that is no JSON list"));
}

absl::StatusOr<std::string> ArgumentsOf(const Json& call, const std::string& place) {
  const Json* const arguments = Find(call, "arguments");
  if (arguments == nullptr) {
    return Unusable(absl::StrCat(place, ".arguments is missing; {} where there are none"));
  }
  if (arguments->is_string()) return arguments->get<std::string>();
  if (arguments->is_object()) return ToPythonJson(arguments->dump());
  return Unusable(absl::StrCat(place, ".arguments is ", arguments->type_name(),
                               ", must be an object or its text"));
}

absl::StatusOr<ToolCall> ToolCallOf(const Json& given, const std::string& place) {
  if (!given.is_object()) {
    return Unusable(absl::StrCat(place, " is ", given.type_name(), ", must be an object"));
  }
  const Json* const function = Find(given, "function");
  const Json& call = function != nullptr ? *function : given;
  const Json* const name = call.is_object() ? Find(call, "name") : nullptr;
  if (name == nullptr || !name->is_string() || IsEmptyText(*name)) {
    return Unusable(absl::StrCat(place, ".name is missing, the name of the function called"));
  }
  ToolCall out{.name = name->get<std::string>()};
  ASSIGN_OR_RETURN(out.arguments, ArgumentsOf(call, place));
  return out;
}

absl::Status TakeToolCalls(const Json& value, const std::string& place, ChatMessage* message) {
  if (message->role != "assistant") {
    return Unusable(
        absl::StrCat(place, " belongs to an assistant's message, not to one of ", message->role));
  }
  ASSIGN_OR_RETURN(const Json calls, ListAt(value, place));
  for (size_t i = 0; i < calls.size(); ++i) {
    ASSIGN_OR_RETURN(message->tool_calls.emplace_back(),
                     ToolCallOf(calls[i], absl::StrCat(place, "[", i, "]")));
  }
  return absl::OkStatus();
}

absl::Status TakeTools(const Json& value, const std::string& place, std::vector<std::string>* out) {
  ASSIGN_OR_RETURN(const Json tools, ListAt(value, place));
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!tools[i].is_object()) {
      return Unusable(
          absl::StrCat(place, "[", i, "] is ", tools[i].type_name(), ", must be an object"));
    }
    out->push_back(tools[i].dump());
  }
  return absl::OkStatus();
}

absl::Status TakeRole(const Json& given, const std::string& place, ChatMessage* message) {
  const Json* const role = Find(given, "role");
  if (role == nullptr) {
    return Unusable(absl::StrCat(
        place, ".role is missing",
        given.contains("from") ? " (rename `from` and `value` to `role` and `content`)" : ""));
  }
  if (role->is_string()) {
    message->role = role->get<std::string>();
    for (const char* const known : {"system", "user", "assistant", "tool"}) {
      if (message->role == known) return absl::OkStatus();
    }
  }
  return Unusable(absl::StrCat(
      place, ".role is ",
      role->is_string() ? absl::StrCat("'", message->role, "'") : std::string(role->type_name()),
      ", must be system, user, assistant or tool"));
}

absl::Status TakeContent(const Json& given, const std::string& place, ChatMessage* message) {
  const Json* const content = Find(given, "content");
  if (content != nullptr && content->is_string()) {
    message->content = content->get<std::string>();
    return absl::OkStatus();
  }
  // An answer that only calls a tool has often none.
  if (content == nullptr && !message->tool_calls.empty()) return absl::OkStatus();
  return Unusable(content == nullptr ? absl::StrCat(place, ".content is missing")
                                     : absl::StrCat(place, ".content is ", content->type_name(),
                                                    ", must be a string"));
}

absl::Status TakeReasoning(const Json& reasoning, const std::string& place, ChatMessage* message) {
  if (message->role != "assistant") {
    if (IsEmptyText(reasoning)) return absl::OkStatus();
    return Unusable(
        absl::StrCat(place, " belongs to an assistant's message, not to one of ", message->role));
  }
  if (!reasoning.is_string()) {
    return Unusable(absl::StrCat(place, " is ", reasoning.type_name(), ", must be a string"));
  }
  message->reasoning_content = reasoning.get<std::string>();
  return absl::OkStatus();
}

absl::StatusOr<ChatMessage> MessageOf(const Json& given, const std::string& place) {
  if (!given.is_object()) {
    return Unusable(absl::StrCat(place, " is ", given.type_name(), ", must be an object"));
  }
  ChatMessage message;
  RETURN_IF_ERROR(TakeRole(given, place, &message));
  if (const Json* const calls = FindList(given, "tool_calls"); calls != nullptr) {
    RETURN_IF_ERROR(TakeToolCalls(*calls, absl::StrCat(place, ".tool_calls"), &message));
  }
  RETURN_IF_ERROR(TakeContent(given, place, &message));
  if (const Json* const reasoning = Find(given, "reasoning_content"); reasoning != nullptr) {
    RETURN_IF_ERROR(TakeReasoning(*reasoning, absl::StrCat(place, ".reasoning_content"), &message));
  }
  return message;
}

}  // namespace

absl::StatusOr<Chat> ChatOfLine(const NumberedLine& line) {
  ASSIGN_OR_RETURN(const Json json, OrderedObjectOfLine(line));
  const auto messages = json.find("conversations");
  if (messages == json.end()) {
    const char* const instead = json.contains("text")       ? " (it has `text`: data.format text)"
                                : json.contains("messages") ? " (rename `messages` to it)"
                                                            : "";
    return Unusable(absl::StrCat("no field `conversations`", instead));
  }
  if (!messages->is_array()) {
    return Unusable(absl::StrCat("`conversations` is not a list but ", messages->type_name()));
  }
  if (messages->empty()) return Unusable("`conversations` is empty");
  Chat chat;
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& given = (*messages)[i];
    const std::string place = absl::StrCat("conversations[", i, "]");
    ASSIGN_OR_RETURN(ChatMessage message, MessageOf(given, place));
    if (const Json* const tools = FindList(given, "tools"); tools != nullptr) {
      if (i > 0 || message.role != "system") {
        return Unusable(
            absl::StrCat(place, ".tools: only a system message in front has a place for tools"));
      }
      RETURN_IF_ERROR(TakeTools(*tools, absl::StrCat(place, ".tools"), &chat.tools));
    }
    chat.messages.push_back(std::move(message));
  }
  return chat;
}

}  // namespace mindforge
