// A stretch of a text.
#pragma once

#include <cstddef>

namespace mindforge {

// Bytes [begin, end).
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
  friend bool operator==(const TextSpan&, const TextSpan&) = default;
};

}  // namespace mindforge
