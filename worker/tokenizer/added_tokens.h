// Finds added tokens (special or not) in text, as the `tokenizers` package does: leftmost, then
// longest; first those that ignore the normalizer, then the others in what remains.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "worker/tokenizer/text_span.h"

namespace mindforge {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;
  bool left_strip = false;   // swallows white space before it
  bool right_strip = false;  // and after it
};

// Immutable, safe from any thread.
class AddedTokens {
 public:
  explicit AddedTokens(std::vector<AddedToken> tokens);

  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Calls `text` for each stretch without added tokens and `token` for each token, in order.
  // Special tokens that touch a span of `plain` are text; others are found there too. REQUIRES:
  // `input` is valid UTF-8; the spans are in order, disjoint and within it.
  void Split(std::string_view input, absl::Span<const TextSpan> plain,
             const std::function<void(std::string_view)>& text,
             const std::function<void(int32_t)>& token) const;

 private:
  // Tokens by first byte, the longest first.
  using Table = std::array<std::vector<int>, 256>;

  // A stretch of the input, which starts at byte `offset` of it.
  void SplitBy(const Table& table, std::string_view stretch, size_t offset,
               absl::Span<const TextSpan> plain, const std::function<void(std::string_view)>& text,
               const std::function<void(int32_t)>& token) const;

  std::vector<AddedToken> tokens_;
  Table raw_;
  Table normalized_;
  bool any_raw_ = false;
  bool any_normalized_ = false;
};

}  // namespace mindforge
