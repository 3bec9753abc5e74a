// A conversation, and the prompt text that a chat template makes of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

struct ToolCall {
  std::string name;
  std::string arguments;  // written as it stands; Python's JSON (python_json.h) is what models know
};

struct ChatMessage {
  std::string role;  // system, user, assistant or tool
  std::string content;
  // Of an assistant's turn. Unset: the content's own <think> block, where the template looks for
  // one; set, even to nothing: the content stays whole.
  std::optional<std::string> reasoning_content = std::nullopt;
  std::vector<ToolCall> tool_calls = {};
};

struct Chat {
  std::vector<ChatMessage> messages;
  std::vector<std::string> tools = {};  // JSON objects as text
};

// `written` are the stretches that came with the chat, in order, disjoint and never empty; the rest
// is the template's own. Valid UTF-8.
struct RenderedChat {
  std::string text;
  std::vector<TextSpan> written;
};

}  // namespace mindforge
