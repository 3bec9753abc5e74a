#include "common/utf8.h"

namespace mindforge {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::string SanitizeUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = Utf8Sequence(text);
    out.append(step.kind == Utf8Step::Kind::kCharacter ? text.substr(0, step.bytes) : kReplacement);
    text.remove_prefix(step.bytes);
  }
  return out;
}

}  // namespace mindforge
