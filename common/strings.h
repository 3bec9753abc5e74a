// Small string helpers that Abseil lacks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mindforge {

// Levenshtein distance, case-insensitive.
int EditDistance(std::string_view a, std::string_view b);

// The name nearest to `word`, or "" when none is near enough to be a likely slip of the hand.
std::string NearestName(std::string_view word, const std::vector<std::string>& names);

// "; did you mean 'x'?" or "".
std::string DidYouMean(std::string_view word, const std::vector<std::string>& names);

// `text` cut to at most `bytes` bytes at a UTF-8 boundary, with "..." when cut.
std::string Truncate(std::string_view text, size_t bytes);

}  // namespace mindforge
