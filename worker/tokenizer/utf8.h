// Characters of valid UTF-8, and their classes in GPT-2's split pattern. Knows nothing of tokens;
// common/utf8.h knows what is valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mindforge {

enum class CharClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };

// \p{L}, \p{N} and \s as the `tokenizers` package has them; 0 elsewhere.
CharClass ClassOf(uint32_t code_point);

// Decodes the character at `p` of valid UTF-8 and advances past it.
inline uint32_t DecodeUtf8(const unsigned char*& p) {
  const uint32_t first = *p++;
  if (first < 0x80) return first;
  if (first < 0xE0) return (first & 0x1F) << 6 | (*p++ & 0x3F);
  if (first < 0xF0) {
    const uint32_t middle = (*p++ & 0x3F) << 6;
    return (first & 0x0F) << 12 | middle | (*p++ & 0x3F);
  }
  const uint32_t high = (*p++ & 0x3F) << 12;
  const uint32_t middle = (*p++ & 0x3F) << 6;
  return (first & 0x07) << 18 | high | middle | (*p++ & 0x3F);
}

// Appends the UTF-8 form. REQUIRES: a code point that has one.
void AppendUtf8(uint32_t code_point, std::string* out);

bool IsValidUtf8(std::string_view text);

// Length of the first piece of GPT-2's split pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// REQUIRES: valid UTF-8, not empty.
size_t FirstWordLength(std::string_view text);

}  // namespace mindforge
