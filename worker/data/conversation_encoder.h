// A conversation of a jsonl line as ids: rendered by the chat template of the tokenizer's folder,
// the one that serves it, without a generation prompt. The reference's two random changes are drawn
// from (seed, file, line), so that every rank and every later run draws the same.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/answer_mask.h"
#include "worker/data/conversation_options.h"
#include "worker/data/line_encoder.h"
#include "worker/tokenizer/chat_templates.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

// Borrows the tokenizer.
class ConversationEncoder : public LineEncoder {
 public:
  // INVALID_ARGUMENT: the tokenizer has no chat template that is known, or none of its tokens.
  static absl::StatusOr<std::unique_ptr<ConversationEncoder>> For(
      const Tokenizer& tokenizer, const ConversationOptions& options);

  absl::Status Encode(const NumberedLine& line, int64_t file,
                      std::vector<int32_t>* ids) const override;
  bool IsTrainable(absl::Span<const int32_t> ids) const override { return answers_.HasAny(ids); }
  std::string key() const override;
  absl::string_view line_form() const override {
    return "a JSON object with a list `conversations` of {role, content}";
  }
  absl::string_view trainable_form() const override {
    return "conversation with an assistant's message";
  }

  const AnswerMask& answers() const { return answers_; }

 private:
  ConversationEncoder(const Tokenizer& tokenizer, const ConversationOptions& options,
                      ChatTemplates templates, AnswerMask answers)
      : tokenizer_(tokenizer),
        options_(options),
        templates_(std::move(templates)),
        answers_(std::move(answers)) {}

  const Tokenizer& tokenizer_;
  const ConversationOptions options_;
  const ChatTemplates templates_;
  const AnswerMask answers_;
};

}  // namespace mindforge
