#include "worker/tokenizer/chat_template.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "worker/tokenizer/python_json.h"

namespace mindforge {
namespace {

using Kind = ChatTemplate::Kind;

constexpr std::string_view kNoThought = "<think>\n\n</think>\n\n";

constexpr std::string_view kToolsBegin =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
    "provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsEnd =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, "
    "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

// Keeps apart what the template says and what the chat brought.
class Writer {
 public:
  Writer& Own(std::string_view text) {
    rendered_.text.append(text);
    return *this;
  }

  Writer& Written(std::string_view text) {
    if (text.empty()) return *this;
    const size_t begin = rendered_.text.size();
    rendered_.text.append(SanitizeUtf8(text));
    if (!rendered_.written.empty() && rendered_.written.back().end == begin) {
      rendered_.written.back().end = rendered_.text.size();
    } else {
      rendered_.written.push_back({begin, rendered_.text.size()});
    }
    return *this;
  }

  RenderedChat Take() { return std::move(rendered_); }

 private:
  RenderedChat rendered_;
};

std::string_view TrimNewlines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// Python's text.split(mark)[0] and text.split(mark)[-1].
std::string_view BeforeFirst(std::string_view text, std::string_view mark) {
  return text.substr(0, text.find(mark));
}
std::string_view AfterLast(std::string_view text, std::string_view mark) {
  const size_t at = text.rfind(mark);
  return at == text.npos ? text : text.substr(at + mark.size());
}

absl::Status CheckPlain(const Chat& chat) {
  constexpr std::string_view kRemedy =
      "cannot be with MiniMind2's chat template, whose models were not trained on it; leave it "
      "out, or use a model with MiniMind-3's";
  std::vector<FieldViolation> wrong;
  if (!chat.tools.empty()) wrong.push_back({"tools", std::string(kRemedy)});
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    const ChatMessage& message = chat.messages[i];
    const std::string where = absl::StrCat("messages[", i, "].");
    if (message.role == "tool") {
      wrong.push_back({where + "role", absl::StrCat("\"tool\" ", std::string(kRemedy))});
    }
    if (!message.tool_calls.empty()) wrong.push_back({where + "tool_calls", std::string(kRemedy)});
    // An empty one says that there was none: data of uniform columns have it everywhere.
    if (message.reasoning_content && !message.reasoning_content->empty()) {
      wrong.push_back({where + "reasoning_content", std::string(kRemedy)});
    }
  }
  return wrong.empty() ? absl::OkStatus() : InvalidArgument(wrong);
}

absl::Status CheckMessages(const Chat& chat) {
  if (chat.messages.empty()) {
    return InvalidArgument("messages", "is empty; a chat prompt needs at least one message");
  }
  std::vector<FieldViolation> wrong;
  for (size_t i = 0; i < chat.messages.size(); ++i) {
    const ChatMessage& message = chat.messages[i];
    const std::string where = absl::StrCat("messages[", i, "].");
    const bool assistant = message.role == "assistant";
    if (!assistant && message.role != "system" && message.role != "user" &&
        message.role != "tool") {
      wrong.push_back({where + "role", absl::StrCat("\"", SanitizeUtf8(message.role.substr(0, 80)),
                                                    "\" is not one of system, user, assistant, "
                                                    "tool")});
    }
    // The templates would drop them without a word.
    if (!assistant && !message.tool_calls.empty()) {
      wrong.push_back({where + "tool_calls", "is for assistant messages"});
    }
    if (!assistant && message.reasoning_content) {
      wrong.push_back({where + "reasoning_content", "is for assistant messages"});
    }
  }
  return wrong.empty() ? absl::OkStatus() : InvalidArgument(wrong);
}

void WriteTurn(const ChatMessage& message, Writer* out) {
  out->Own("<|im_start|>").Own(message.role).Own("\n").Written(message.content);
  out->Own("<|im_end|>\n");
}

void WriteToolCalls(const std::vector<ToolCall>& calls, bool after_content, Writer* out) {
  for (size_t i = 0; i < calls.size(); ++i) {
    if (i > 0 || after_content) out->Own("\n");
    out->Own("<tool_call>\n{\"name\": \"").Written(calls[i].name);
    out->Own("\", \"arguments\": ").Written(calls[i].arguments);
    out->Own("}\n</tool_call>");
  }
}

void WriteReasonedTurn(const ChatMessage& message, Writer* out) {
  constexpr std::string_view kOpen = "<think>";
  constexpr std::string_view kClose = "</think>";
  std::string_view content = message.content;
  std::string_view reasoning;
  if (message.reasoning_content) {
    reasoning = *message.reasoning_content;
  } else if (content.find(kClose) != content.npos) {
    reasoning = TrimNewlines(BeforeFirst(content, kClose), false, true);
    reasoning = AfterLast(reasoning, kOpen);
    content = TrimNewlines(AfterLast(content, kClose), true, false);
  }
  out->Own("<|im_start|>assistant\n<think>\n").Written(TrimNewlines(reasoning, true, true));
  out->Own("\n</think>\n\n").Written(TrimNewlines(content, true, false));
  // A content of line breaks alone counts as one, although none of it is written.
  WriteToolCalls(message.tool_calls, !content.empty(), out);
  out->Own("<|im_end|>\n");
}

// Answers that follow one another share one user's turn.
void WriteToolAnswer(const std::vector<ChatMessage>& messages, size_t i, Writer* out) {
  if (i == 0 || messages[i - 1].role != "tool") out->Own("<|im_start|>user");
  out->Own("\n<tool_response>\n").Written(messages[i].content).Own("\n</tool_response>");
  if (i + 1 == messages.size() || messages[i + 1].role != "tool") out->Own("<|im_end|>\n");
}

absl::Status WriteTools(const Chat& chat, Writer* out) {
  out->Own("<|im_start|>system\n");
  if (chat.messages[0].role == "system") out->Written(chat.messages[0].content).Own("\n\n");
  out->Own(kToolsBegin);
  for (size_t i = 0; i < chat.tools.size(); ++i) {
    const absl::StatusOr<std::string> tool = ToPythonJsonObject(chat.tools[i]);
    if (!tool.ok()) {
      return InvalidArgument(absl::StrCat("tools[", i, "]"), std::string(tool.status().message()));
    }
    out->Own("\n").Written(*tool);
  }
  out->Own(kToolsEnd);
  return absl::OkStatus();
}

absl::Status WriteMiniMind3(const Chat& chat, Writer* out) {
  size_t first = 0;
  if (!chat.tools.empty()) {
    RETURN_IF_ERROR(WriteTools(chat, out));
    if (chat.messages[0].role == "system") first = 1;
  }
  for (size_t i = first; i < chat.messages.size(); ++i) {
    const ChatMessage& message = chat.messages[i];
    if (message.role == "assistant") {
      WriteReasonedTurn(message, out);
    } else if (message.role == "tool") {
      WriteToolAnswer(chat.messages, i, out);
    } else {
      WriteTurn(message, out);
    }
  }
  return absl::OkStatus();
}

void WriteMiniMind2(const Chat& chat, bool default_system, Writer* out) {
  if (default_system && chat.messages[0].role != "system") {
    out->Own("<|im_start|>system\nYou are a helpful assistant<|im_end|>\n");
  }
  for (const ChatMessage& message : chat.messages) WriteTurn(message, out);
}

void WriteGenerationPrompt(Kind kind, std::optional<bool> enable_thinking, Writer* out) {
  out->Own("<|im_start|>assistant\n");
  // MiniMind-3 asks for thinking by an open block and takes unset as no; the others take unset as
  // "the model decides".
  const bool asks = kind == Kind::kMiniMind3;
  const bool thinking = enable_thinking.value_or(!asks);
  if (!thinking) out->Own(kNoThought);
  if (thinking && asks) out->Own("<think>\n");
}

}  // namespace

absl::StatusOr<RenderedChat> ChatTemplate::Render(const Chat& chat,
                                                  const ChatRenderOptions& options) const {
  RETURN_IF_ERROR(CheckMessages(chat));
  Writer out;
  if (kind_ == Kind::kMiniMind3) {
    RETURN_IF_ERROR(WriteMiniMind3(chat, &out));
  } else {
    RETURN_IF_ERROR(CheckPlain(chat));
    WriteMiniMind2(chat, kind_ == Kind::kMiniMind2, &out);
  }
  if (options.add_generation_prompt) WriteGenerationPrompt(kind_, options.enable_thinking, &out);
  return out.Take();
}

}  // namespace mindforge
