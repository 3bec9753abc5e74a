// A folder's chat templates by the names that transformers gives a meaning: "tool_use" renders a
// chat with tools where there is one, "default" every other.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "worker/tokenizer/chat_template.h"

namespace mindforge {

// A value type.
class ChatTemplates {
 public:
  // Of Jinja sources by name (Tokenizer::chat_templates()). `problem`: why one may be missing
  // (Tokenizer::chat_template_problem()).
  static ChatTemplates Of(const std::map<std::string, std::string>& sources,
                          const std::string& problem = "");

  // Whether a chat can be rendered at all; else why not and what to do (INVALID_ARGUMENT).
  absl::Status status() const { return default_.status(); }
  // As ChatTemplate::Render, with the template for this chat; a template that is missing or not
  // known is INVALID_ARGUMENT without a field.
  absl::StatusOr<RenderedChat> Render(const Chat& chat, const ChatRenderOptions& options) const;

 private:
  explicit ChatTemplates(absl::StatusOr<ChatTemplate> standard) : default_(std::move(standard)) {}

  absl::StatusOr<ChatTemplate> default_;
  std::optional<absl::StatusOr<ChatTemplate>> tool_use_;
};

}  // namespace mindforge
