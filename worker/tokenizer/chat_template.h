// Chat messages to prompt text. The templates of MiniMind releases are recognised and rendered by
// our own code; there is no template language here, so an unknown one is refused, never guessed at.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mindforge {

struct ChatMessage {
  std::string role;  // system, user or assistant
  std::string content;
};

struct ChatRenderOptions {
  bool add_generation_prompt = true;
  // false puts an empty <think> block into the generation prompt; true opens one where the template
  // does (MiniMind-3). Unset is what the template takes it for.
  std::optional<bool> enable_thinking;
};

// One of the known templates. A value type.
class ChatTemplate {
 public:
  enum class Kind {
    kMiniMind2,          // ChatML with a default system line
    kMiniMind2NoSystem,  // the same without it
    kMiniMind3,          // without it too, and every answer with a <think> block, perhaps empty
  };

  // `source` is a folder's Jinja template (Tokenizer::chat_template()). INVALID_ARGUMENT when it is
  // empty or not a known one; the message says to send text instead.
  static absl::StatusOr<ChatTemplate> Recognise(std::string_view source);
  explicit ChatTemplate(Kind kind) : kind_(kind) {}

  Kind kind() const { return kind_; }

  // INVALID_ARGUMENT: no message, or a role that is not supported (tools are not).
  absl::StatusOr<std::string> Render(absl::Span<const ChatMessage> messages,
                                     const ChatRenderOptions& options) const;

 private:
  Kind kind_;
};

// MiniMind2's template source, written into the tokenizer_config.json of new tokenizers.
std::string_view MiniMind2ChatTemplate();

}  // namespace mindforge
