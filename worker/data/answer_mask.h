// Which ids of a conversation are the assistant's: what follows `<|im_start|>assistant\n` up to and
// with the next `<|im_end|>\n`, found by ids as the reference finds them. An answer that is cut off
// reaches to the end. It does not know how conversations are rendered.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mindforge {

class Tokenizer;

// A value type.
class AnswerMask {
 public:
  // INVALID_ARGUMENT: the tokenizer has no such tokens, so that contents could pass for turns.
  static absl::StatusOr<AnswerMask> For(const Tokenizer& tokenizer);

  // Sets answers[i] to whether ids[i] is part of an answer. What stands in ids[0, n) decides
  // answers[0, n), so that a conversation may be cut before or after.
  void Mark(absl::Span<const int64_t> ids, absl::Span<uint8_t> answers) const;
  // True when any id is.
  bool HasAny(absl::Span<const int32_t> ids) const;
  bool HasAny(absl::Span<const int64_t> ids) const;

 private:
  AnswerMask(std::vector<int32_t> opening, std::vector<int32_t> closing)
      : opening_(std::move(opening)), closing_(std::move(closing)) {}

  std::vector<int32_t> opening_;
  std::vector<int32_t> closing_;
};

}  // namespace mindforge
