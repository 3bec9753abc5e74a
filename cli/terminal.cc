#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include <cstdint>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mindforge::cli {
namespace {

constexpr int kUsualWidth = 80;

// Decodes one code point at `at` and moves past it; a broken sequence is one U+FFFD a byte.
char32_t NextCodePoint(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at);
  const int length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (length == 1) {
    ++at;
    return first;
  }
  if (length == 0 || at + length > text.size()) {
    ++at;
    return 0xFFFD;
  }
  char32_t point = first & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) {
      ++at;
      return 0xFFFD;
    }
    point = (point << 6) | (byte(at + i) & 0x3F);
  }
  at += length;
  return point;
}

int WidthOf(char32_t point) {
  const int width = wcwidth(static_cast<wchar_t>(point));
  return width < 0 ? 1 : width;
}

const char* Code(Style style) {
  switch (style) {
    case Style::kBold:
      return "1";
    case Style::kDim:
      return "2";
    case Style::kGood:
      return "32";
    case Style::kBad:
      return "31";
    case Style::kWarn:
      return "33";
    case Style::kPlain:
      break;
  }
  return nullptr;
}

}  // namespace

Terminal DetectTerminal(int fd) {
  Terminal terminal;
  terminal.is_terminal = isatty(fd) == 1;
  if (!terminal.is_terminal) return terminal;
  winsize size = {};
  int columns = 0;
  if (ioctl(fd, TIOCGWINSZ, &size) == 0) columns = size.ws_col;
  const char* env = std::getenv("COLUMNS");
  if (columns <= 0 && env != nullptr && !absl::SimpleAtoi(env, &columns)) columns = 0;
  terminal.width = columns > 0 ? columns : kUsualWidth;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  terminal.color = (no_color == nullptr || *no_color == '\0') && term != nullptr &&
                   std::string_view(term) != "dumb";
  return terminal;
}

std::string Styled(const Terminal& terminal, Style style, const std::string& text) {
  const char* code = Code(style);
  if (!terminal.color || code == nullptr) return text;
  return absl::StrCat("\x1b[", code, "m", text, "\x1b[0m");
}

int DisplayWidth(std::string_view text) {
  int width = 0;
  for (size_t at = 0; at < text.size();) width += WidthOf(NextCodePoint(text, at));
  return width;
}

std::string FitWidth(std::string_view text, int width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width <= 0) return "";
  size_t end = 0;
  int used = 0;
  for (size_t at = 0; at < text.size();) {
    used += WidthOf(NextCodePoint(text, at));
    if (used > width - 1) break;
    end = at;
  }
  return std::string(text.substr(0, end)) + "…";
}

std::string EscapeControls(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t point = NextCodePoint(text, at);
    const bool control =
        (point < 0x20 && point != '\n' && point != '\t') || (point >= 0x7F && point < 0xA0);
    if (control) {
      absl::StrAppend(&result, "\\x", absl::Hex(static_cast<uint32_t>(point), absl::kZeroPad2));
    } else {
      result.append(text.substr(start, at - start));
    }
  }
  return result;
}

}  // namespace mindforge::cli
