#include "worker/data/conversation_encoder.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "worker/data/conversation.h"
#include "xxhash.h"

namespace mindforge {
namespace {

// Part of the cache's key: raised when a line becomes other ids than before.
constexpr int kVersion = 1;

constexpr std::string_view kEmptyThink = "<think>\n\n</think>\n\n";

// Ten, half of them in each language, some with the model's name.
constexpr const char* kSystemLines[] = {
    "你是一个乐于助人的AI助手。",
    "你是minimind，一个小型语言模型。",
    "请用准确、清楚的语言回答用户的问题。",
    "你是一个友好的聊天助手，请耐心解答。",
    "你是一位知识丰富的助手，不确定时请直说。",
    "You are a helpful assistant.",
    "You are minimind, a small language model.",
    "Answer the user's questions accurately and clearly.",
    "You are a friendly assistant; be patient and kind.",
    "You are a knowledgeable assistant; say so when you are not sure.",
};

// SplitMix64, keyed by a line's place.
class Draws {
 public:
  Draws(uint64_t seed, int64_t file, int64_t line) : state_(seed) {
    for (const int64_t part : {file, line}) state_ = Next() ^ static_cast<uint64_t>(part);
  }

  // Uniform in [0, 1).
  double Share() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  size_t Below(size_t limit) { return static_cast<size_t>(Next() % limit); }

 private:
  uint64_t Next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

// Takes [begin, begin + size) out of the text and moves what was written in it along.
void Remove(size_t begin, size_t size, RenderedChat* chat) {
  chat->text.erase(begin, size);
  const auto moved = [=](size_t at) { return at <= begin ? at : at - std::min(size, at - begin); };
  for (TextSpan& span : chat->written) span = {moved(span.begin), moved(span.end)};
  std::erase_if(chat->written, [](const TextSpan& span) { return span.begin == span.end; });
}

void RemoveEmptyThinks(RenderedChat* chat) {
  size_t at = 0;
  while ((at = chat->text.find(kEmptyThink, at)) != std::string::npos) {
    Remove(at, kEmptyThink.size(), chat);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConversationEncoder>> ConversationEncoder::For(
    const Tokenizer& tokenizer, const ConversationOptions& options) {
  ChatTemplates templates =
      ChatTemplates::Of(tokenizer.chat_templates(), tokenizer.chat_template_problem());
  if (!templates.status().ok()) {
    return absl::InvalidArgumentError(
        "the tokenizer's folder has no chat template that is known, which data.format: "
        "conversations needs: give a folder whose tokenizer_config.json has MiniMind's, or write "
        "the conversations as texts yourself (data.format: text)");
  }
  ASSIGN_OR_RETURN(AnswerMask answers, AnswerMask::For(tokenizer));
  return std::unique_ptr<ConversationEncoder>(
      new ConversationEncoder(tokenizer, options, std::move(templates), std::move(answers)));
}

absl::Status ConversationEncoder::Encode(const NumberedLine& line, int64_t file,
                                         std::vector<int32_t>* ids) const {
  ASSIGN_OR_RETURN(Chat chat, ChatOfLine(line));
  // Before the random changes, so that an error's message counts as the line does.
  absl::StatusOr<RenderedChat> rendered = templates_.Render(chat, {.add_generation_prompt = false});
  if (!rendered.ok()) {
    return absl::InvalidArgumentError(
        absl::StrReplaceAll(rendered.status().message(), {{"messages", "conversations"}}));
  }
  if (ids == nullptr) return absl::OkStatus();
  Draws draws(options_.seed, file, line.number);
  const bool adds_system = draws.Share() < options_.random_system_fraction;
  const size_t system_line = draws.Below(std::size(kSystemLines));
  const bool drops_think = draws.Share() < options_.drop_empty_think_fraction;
  if (adds_system && chat.tools.empty() && chat.messages[0].role != "system") {
    chat.messages.insert(chat.messages.begin(),
                         ChatMessage{.role = "system", .content = kSystemLines[system_line]});
    ASSIGN_OR_RETURN(rendered, templates_.Render(chat, {.add_generation_prompt = false}));
  }
  if (drops_think) RemoveEmptyThinks(&*rendered);
  const std::vector<int32_t> encoded =
      tokenizer_.EncodeWithPlain(rendered->text, rendered->written);
  ids->insert(ids->end(), encoded.begin(), encoded.end());
  return absl::OkStatus();
}

std::string ConversationEncoder::key() const {
  const bool draws = options_.random_system_fraction > 0 || options_.drop_empty_think_fraction > 0;
  std::string all = absl::StrFormat("%d|%.17g|%.17g|%d", kVersion, options_.random_system_fraction,
                                    options_.drop_empty_think_fraction, draws ? options_.seed : 0);
  for (const auto& [name, source] : tokenizer_.chat_templates()) {
    absl::StrAppend(&all, "|", name, "|", source);
  }
  return absl::StrFormat("-chat-%016x", XXH3_64bits(all.data(), all.size()));
}

}  // namespace mindforge
