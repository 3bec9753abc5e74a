// UTF-8 as Python and Rust repair it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mindforge {

// What Utf8Sequence found at the start of some bytes.
struct Utf8Step {
  enum class Kind {
    kCharacter,   // a whole character of `bytes` bytes
    kInvalid,     // `bytes` bytes that count as one U+FFFD
    kIncomplete,  // the text ends inside a character that could still be completed
  };
  Kind kind;
  size_t bytes;
};

// Looks at the first character. The invalid part is the longest prefix of a valid character, at
// least one byte (Unicode's recommended practice, which Python and Rust follow).
// REQUIRES: `text` is not empty.
inline Utf8Step Utf8Sequence(std::string_view text) {
  using Kind = Utf8Step::Kind;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {Kind::kCharacter, 1};
  if (first < 0xC2 || first > 0xF4) return {Kind::kInvalid, 1};
  const size_t want = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies past U+10FFFF.
  const unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < want; ++i) {
    if (i == text.size()) return {Kind::kIncomplete, i};
    const unsigned char c = byte(i);
    const bool fits = i == 1 ? c >= low && c <= high : c >= 0x80 && c <= 0xBF;
    if (!fits) return {Kind::kInvalid, i};
  }
  return {Kind::kCharacter, want};
}

// Copies `text`, replacing what is not UTF-8 by U+FFFD as Python's errors='replace' does.
// Protobuf's strings take no other text.
std::string SanitizeUtf8(std::string_view text);

}  // namespace mindforge
