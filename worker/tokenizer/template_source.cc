// Which known template a Jinja source is. Sources are compared without what means nothing to their
// output, so that one that was reformatted is still known; a word within a text is never ignored.
#include <algorithm>
#include <cctype>
#include <string>

#include "worker/tokenizer/chat_template.h"
#include "xxhash.h"

namespace mindforge {
namespace {

bool IsSpace(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

bool IsOpening(std::string_view rest) { return rest.starts_with("{%") || rest.starts_with("{{"); }

// `tag` from "{%" or "{{" on: appends it up to its closing brace without white space outside
// literals, message['role'] as message.role, and without the right-hand trim, which the next tag's
// left-hand trim repeats. Returns its length.
size_t AppendTag(std::string_view tag, std::string* out) {
  size_t i = 0;
  while (i < tag.size()) {
    const char c = tag[i];
    if (i >= 2 && (tag.substr(i).starts_with("%}") || tag.substr(i).starts_with("}}"))) {
      if (out->back() == '-') out->pop_back();
      out->append(tag.substr(i, 2));
      return i + 2;
    }
    if (c == '\'' || c == '"') {
      size_t end = i + 1;
      while (end < tag.size() && tag[end] != c) end += tag[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, tag.size());
      const std::string_view literal = tag.substr(i, end - i);
      if (out->back() == '[' && end < tag.size() && tag[end] == ']') {
        out->back() = '.';
        out->append(literal.substr(1, literal.size() - 2));
        i = end + 1;
      } else {
        out->append(literal);
        i = end;
      }
      continue;
    }
    if (!IsSpace(c)) out->push_back(c);
    ++i;
  }
  return i;
}

std::string Normalise(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size();) {
    if (IsOpening(source.substr(i))) {
      i += AppendTag(source.substr(i), &out);
      continue;
    }
    // Text between tags: white space that the next tag trims goes, and at the end the line breaks
    // that Jinja takes (of the last tag's line and of the file).
    size_t end = i;
    while (end < source.size() && !IsOpening(source.substr(end))) ++end;
    std::string_view text = source.substr(i, end - i);
    const bool trimmed = end < source.size() ? source.substr(end + 2).starts_with('-')
                                             : text == "\n" || text == "\n\n";
    while (trimmed && !text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    out.append(text);
    i = end;
  }
  return out;
}

struct KnownTemplate {
  uint64_t digest;  // XXH3-64 of the normalised source
  ChatTemplate::Kind kind;
};

constexpr KnownTemplate kKnown[] = {
    {0xd97632a5a37a1979u, ChatTemplate::Kind::kMiniMind2},
    {0x0c192242e52a0345u, ChatTemplate::Kind::kMiniMind2NoSystem},
    {0x58160d0c89cf0dc4u, ChatTemplate::Kind::kMiniMind3},
};

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(std::string_view source) {
  if (source.empty()) {
    return absl::InvalidArgumentError(
        "the model's tokenizer folder has no chat template; send the prompt as text, or serve a "
        "folder whose tokenizer_config.json has MiniMind's chat_template");
  }
  const std::string known_form = Normalise(source);
  const uint64_t digest = XXH3_64bits(known_form.data(), known_form.size());
  for (const KnownTemplate& known : kKnown) {
    if (known.digest == digest) return ChatTemplate(known.kind);
  }
  return absl::InvalidArgumentError(
      "the model's chat template is not one of MiniMind's and could be rendered wrongly; render "
      "the messages yourself and send the prompt as text");
}

}  // namespace mindforge
