#include "worker/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "worker/tokenizer/utf8.h"

namespace mindforge {
namespace {

// Bytes of white space at the end of `text`.
size_t TrailingSpace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t start = end - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + start;
    if (ClassOf(DecodeUtf8(p)) != CharClass::kSpace) break;
    end = start;
  }
  return text.size() - end;
}

size_t LeadingSpace(std::string_view text) {
  const auto* const begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* p = begin;
  while (p < begin + text.size()) {
    const auto* next = p;
    if (ClassOf(DecodeUtf8(next)) != CharClass::kSpace) break;
    p = next;
  }
  return static_cast<size_t>(p - begin);
}

// Where a search goes on when a special token at [begin, end) touches plain text: behind the token,
// but not behind the plain text, whose neighbours may hold a token that the match ran into. 0: it
// touches none.
size_t BehindPlainMatch(absl::Span<const TextSpan> plain, size_t begin, size_t end) {
  const auto* const span = std::partition_point(
      plain.begin(), plain.end(), [&](const TextSpan& one) { return one.end <= begin; });
  if (span == plain.end() || span->begin >= end) return 0;
  return std::max(begin + 1, std::min(end, span->end));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const auto first = static_cast<unsigned char>(tokens_[i].content[0]);
    (tokens_[i].normalized ? normalized_ : raw_)[first].push_back(static_cast<int>(i));
    (tokens_[i].normalized ? any_normalized_ : any_raw_) = true;
  }
  for (Table* table : {&raw_, &normalized_}) {
    for (auto& candidates : *table) {
      std::stable_sort(candidates.begin(), candidates.end(), [&](int a, int b) {
        return tokens_[a].content.size() > tokens_[b].content.size();
      });
    }
  }
}

void AddedTokens::Split(std::string_view input, absl::Span<const TextSpan> plain,
                        const std::function<void(std::string_view)>& text,
                        const std::function<void(int32_t)>& token) const {
  if (!any_normalized_) return SplitBy(raw_, input, 0, plain, text, token);
  SplitBy(
      raw_, input, 0, plain,
      [&](std::string_view rest) {
        const auto offset = static_cast<size_t>(rest.data() - input.data());
        SplitBy(normalized_, rest, offset, plain, text, token);
      },
      token);
}

void AddedTokens::SplitBy(const Table& table, std::string_view stretch, size_t offset,
                          absl::Span<const TextSpan> plain,
                          const std::function<void(std::string_view)>& text,
                          const std::function<void(int32_t)>& token) const {
  size_t done = 0;
  size_t i = 0;
  while (i < stretch.size()) {
    const AddedToken* found = nullptr;
    for (const int candidate : table[static_cast<unsigned char>(stretch[i])]) {
      const AddedToken& added = tokens_[candidate];
      if (stretch.compare(i, added.content.size(), added.content) == 0) {
        found = &added;
        break;
      }
    }
    if (found == nullptr) {
      ++i;
      continue;
    }
    size_t start = i;
    size_t stop = i + found->content.size();
    if (found->special) {
      if (const size_t last = BehindPlainMatch(plain, offset + start, offset + stop); last > 0) {
        i = last - offset;
        continue;
      }
    }
    if (found->left_strip) start -= TrailingSpace(stretch.substr(done, start - done));
    if (found->right_strip) stop += LeadingSpace(stretch.substr(stop));
    if (done < start) text(stretch.substr(done, start - done));
    token(found->id);
    done = stop;
    i = stop;
  }
  if (done < stretch.size()) text(stretch.substr(done));
}

}  // namespace mindforge
