// GPT-2's printable alphabet for bytes: a byte that is a printable Latin-1 character stands for
// itself, the others take U+0100 onwards in order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mindforge {

// The code point that stands for each byte.
const std::array<uint16_t, 256>& ByteAlphabet();

// The byte-level spelling of raw bytes.
std::string SpellBytes(std::string_view bytes);

// The bytes that a token spells; the token's own UTF-8 bytes when a character of it is outside the
// alphabet (as an added token's may be).
std::string UnspellToken(std::string_view token);

}  // namespace mindforge
