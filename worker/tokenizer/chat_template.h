// Chats to prompt text. The templates of MiniMind releases are recognised and rendered by our own
// code; there is no template language here, so an unknown one is refused, never guessed at.
#pragma once

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/chat.h"

namespace mindforge {

struct ChatRenderOptions {
  bool add_generation_prompt = true;
  // false puts an empty <think> block into the generation prompt; true opens one where the template
  // does (MiniMind-3). Unset is what the template takes it for.
  std::optional<bool> enable_thinking = std::nullopt;
};

// One of the known templates. A value type.
class ChatTemplate {
 public:
  enum class Kind {
    kMiniMind2,          // ChatML with a default system line
    kMiniMind2NoSystem,  // the same without it
    kMiniMind3,  // without it too; tools, and every answer with a <think> block, perhaps empty
  };

  // `source` is a folder's Jinja template (Tokenizer::chat_template()). INVALID_ARGUMENT when it is
  // empty or not a known one; the message says to send text instead.
  static absl::StatusOr<ChatTemplate> Recognise(std::string_view source);
  explicit ChatTemplate(Kind kind) : kind_(kind) {}

  Kind kind() const { return kind_; }

  // The very text that Jinja makes of the template. INVALID_ARGUMENT with a violation that names
  // the field: no message, an unknown role, a tool that is no JSON object, or what the template has
  // no place for (MiniMind2's: tools, tool calls and reasoning, which its models never saw).
  absl::StatusOr<RenderedChat> Render(const Chat& chat, const ChatRenderOptions& options) const;

 private:
  Kind kind_;
};

// MiniMind2's template source, written into the tokenizer_config.json of new tokenizers.
std::string_view MiniMind2ChatTemplate();

}  // namespace mindforge
