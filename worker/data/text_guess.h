// What bytes that are no UTF-8 text probably are, in a word that a message can carry. Guesses only:
// nothing is read differently because of them.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace mindforge {

// So many bytes of a file's beginning are enough for GuessFormat.
inline constexpr size_t kGuessBytes = 4096;

// Where the first byte lies that is no UTF-8; none when all is.
std::optional<size_t> FirstNonUtf8(std::string_view text);

// Guesses that are UTF-8 text all the same.
inline constexpr std::string_view kJsonArray = "one JSON array";
inline constexpr std::string_view kGitLfsPointer = "a git-lfs pointer, not the file itself";

// Of a file, by its first bytes: "gzip", "UTF-16", kJsonArray, …; "" when it may well be lines of
// text.
std::string_view GuessFormat(std::string_view beginning);

// Of text that is not UTF-8: "GBK", "Shift-JIS", "Windows-1252", "damaged UTF-8"; "" when nothing
// fits.
std::string_view GuessEncoding(std::string_view text);

// "not UTF-8 (looks like GBK) at offset 10, byte 0xB4". `format`: what GuessFormat said of the
// file; "" leaves it to the text. REQUIRES: `offset` < text.size().
std::string NotUtf8InWords(std::string_view text, size_t offset, std::string_view format);

}  // namespace mindforge
