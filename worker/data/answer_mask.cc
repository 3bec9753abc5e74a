#include "worker/data/answer_mask.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

constexpr char kStart[] = "<|im_start|>";
constexpr char kEnd[] = "<|im_end|>";

template <typename Id>
bool StartsWith(absl::Span<const Id> ids, size_t at, const std::vector<int32_t>& pattern) {
  return ids.size() - at >= pattern.size() &&
         std::equal(pattern.begin(), pattern.end(), ids.begin() + at);
}

template <typename Id>
bool HasAnyAfter(const std::vector<int32_t>& opening, absl::Span<const Id> ids) {
  for (size_t i = 0; i + opening.size() < ids.size(); ++i) {
    if (StartsWith(ids, i, opening)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<AnswerMask> AnswerMask::For(const Tokenizer& tokenizer) {
  for (const char* const token : {kStart, kEnd}) {
    const std::optional<int32_t> id = tokenizer.TokenToId(token);
    if (id.has_value() && tokenizer.IsSpecial(*id)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has no special token ", token,
                     ", with which a conversation's turns begin and end"));
  }
  return AnswerMask(tokenizer.Encode(absl::StrCat(kStart, "assistant\n")),
                    tokenizer.Encode(absl::StrCat(kEnd, "\n")));
}

void AnswerMask::Mark(absl::Span<const int64_t> ids, absl::Span<uint8_t> answers) const {
  std::fill(answers.begin(), answers.end(), 0);
  for (size_t i = 0; i < ids.size();) {
    if (!StartsWith(ids, i, opening_)) {
      ++i;
      continue;
    }
    const size_t begin = i + opening_.size();
    size_t end = begin;
    while (end < ids.size() && !StartsWith(ids, end, closing_)) ++end;
    end = std::min(end + closing_.size(), ids.size());
    std::fill(answers.begin() + begin, answers.begin() + end, 1);
    i = end;
  }
}

bool AnswerMask::HasAny(absl::Span<const int32_t> ids) const { return HasAnyAfter(opening_, ids); }
bool AnswerMask::HasAny(absl::Span<const int64_t> ids) const { return HasAnyAfter(opening_, ids); }

}  // namespace mindforge
