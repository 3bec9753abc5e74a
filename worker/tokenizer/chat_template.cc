#include "worker/tokenizer/chat_template.h"

#include <cctype>
#include <utility>

#include "absl/strings/str_cat.h"
#include "xxhash.h"

namespace mindforge {
namespace {

// A template's source without what means nothing to its output: white space between tags, the two
// spellings of a field, and the right-hand trim that the next tag's left-hand trim repeats.
std::string Normalise(std::string_view source) {
  std::string dense;
  for (const char c : source) {
    if (!std::isspace(static_cast<unsigned char>(c))) dense.push_back(c);
  }
  std::string out;
  for (size_t i = 0; i < dense.size();) {
    if (dense.compare(i, 3, "-%}") == 0) {
      out += "%}";
      i += 3;
      continue;
    }
    if (dense.compare(i, 2, "['") == 0) {
      size_t end = i + 2;
      while (end < dense.size() && std::isalnum(static_cast<unsigned char>(dense[end]))) ++end;
      if (end > i + 2 && dense.compare(end, 2, "']") == 0) {
        absl::StrAppend(&out, ".", dense.substr(i + 2, end - i - 2));
        i = end + 2;
        continue;
      }
    }
    out.push_back(dense[i++]);
  }
  return out;
}

struct KnownTemplate {
  uint64_t digest;  // XXH3-64 of the normalised source
  ChatTemplate::Kind kind;
};

constexpr KnownTemplate kKnown[] = {
    {0x4a560d806b15484du, ChatTemplate::Kind::kMiniMind2},
    {0xf9775b764ebe19ceu, ChatTemplate::Kind::kMiniMind2NoSystem},
    {0xa8179dbd9e968471u, ChatTemplate::Kind::kMiniMind3},
};

std::string_view TrimNewlines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// MiniMind-3 writes every answer with its reasoning, taken from a <think> block, perhaps empty.
void AppendReasonedAnswer(std::string_view content, std::string* out) {
  constexpr std::string_view kOpen = "<think>";
  constexpr std::string_view kClose = "</think>";
  std::string_view reasoning;
  if (const size_t first = content.find(kClose); first != std::string_view::npos) {
    reasoning = TrimNewlines(content.substr(0, first), false, true);
    if (const size_t open = reasoning.rfind(kOpen); open != std::string_view::npos) {
      reasoning.remove_prefix(open + kOpen.size());
    }
    content.remove_prefix(content.rfind(kClose) + kClose.size());
  }
  out->append("<think>\n").append(TrimNewlines(reasoning, true, true));
  out->append("\n</think>\n\n").append(TrimNewlines(content, true, false));
}

void AppendGenerationPrompt(ChatTemplate::Kind kind, std::optional<bool> enable_thinking,
                            std::string* out) {
  absl::StrAppend(out, "<|im_start|>assistant\n");
  // MiniMind-3 asks for thinking by an open block and takes unset as no; the others take unset as
  // "the model decides".
  const bool asks = kind == ChatTemplate::Kind::kMiniMind3;
  const bool thinking = enable_thinking.value_or(!asks);
  if (!thinking) absl::StrAppend(out, "<think>\n\n</think>\n\n");
  if (thinking && asks) absl::StrAppend(out, "<think>\n");
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(std::string_view source) {
  if (source.empty()) {
    return absl::InvalidArgumentError(
        "the model's tokenizer folder has no chat template; send the prompt as text, or serve a "
        "folder whose tokenizer_config.json has MiniMind's chat_template");
  }
  const std::string dense = Normalise(source);
  const uint64_t digest = XXH3_64bits(dense.data(), dense.size());
  for (const KnownTemplate& known : kKnown) {
    if (known.digest == digest) return ChatTemplate(known.kind);
  }
  return absl::InvalidArgumentError(
      "the model's chat template is not one of MiniMind's and could be rendered wrongly; render "
      "the "
      "messages yourself and send the prompt as text");
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                 const ChatRenderOptions& options) const {
  if (messages.empty()) {
    return absl::InvalidArgumentError("messages: a chat prompt needs at least one message");
  }
  std::string out;
  if (kind_ == Kind::kMiniMind2 && messages[0].role != "system") {
    absl::StrAppend(&out, "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n");
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool assistant = message.role == "assistant";
    if (!assistant && message.role != "system" && message.role != "user") {
      return absl::InvalidArgumentError(absl::StrCat(
          "messages[", i, "].role: \"", message.role, "\" is not one of system, user, assistant",
          message.role == "tool" ? "; tools are not supported" : ""));
    }
    absl::StrAppend(&out, "<|im_start|>", message.role, "\n");
    if (assistant && kind_ == Kind::kMiniMind3) {
      AppendReasonedAnswer(message.content, &out);
    } else {
      absl::StrAppend(&out, message.content);
    }
    absl::StrAppend(&out, "<|im_end|>\n");
  }
  if (options.add_generation_prompt) AppendGenerationPrompt(kind_, options.enable_thinking, &out);
  return out;
}

}  // namespace mindforge
