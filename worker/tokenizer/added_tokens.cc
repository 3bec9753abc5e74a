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

void AddedTokens::Split(std::string_view input, const std::function<void(std::string_view)>& text,
                        const std::function<void(int32_t)>& token) const {
  if (!any_normalized_) return SplitBy(raw_, input, text, token);
  SplitBy(
      raw_, input, [&](std::string_view rest) { SplitBy(normalized_, rest, text, token); }, token);
}

void AddedTokens::SplitBy(const Table& table, std::string_view input,
                          const std::function<void(std::string_view)>& text,
                          const std::function<void(int32_t)>& token) const {
  size_t done = 0;
  size_t i = 0;
  while (i < input.size()) {
    const AddedToken* found = nullptr;
    for (const int candidate : table[static_cast<unsigned char>(input[i])]) {
      const AddedToken& added = tokens_[candidate];
      if (input.compare(i, added.content.size(), added.content) == 0) {
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
    if (found->left_strip) start -= TrailingSpace(input.substr(done, start - done));
    if (found->right_strip) stop += LeadingSpace(input.substr(stop));
    if (done < start) text(input.substr(done, start - done));
    token(found->id);
    done = stop;
    i = stop;
  }
  if (done < input.size()) text(input.substr(done));
}

}  // namespace mindforge
