// What a terminal can show: how wide it is, whether it takes colour, and how wide a text is on it.
#pragma once

#include <string>
#include <string_view>

namespace mindforge::cli {

// One output stream as it is at start. A value type.
struct Terminal {
  bool is_terminal = false;
  int width = 0;  // columns; 0: no limit (not a terminal)
  bool color = false;

  // Whether a line may be drawn again in its place: where colours may be, and nowhere else.
  bool redraws() const { return color; }
};

// Looks at a file descriptor. Colour needs a terminal, no NO_COLOR and a TERM other than "dumb".
Terminal DetectTerminal(int fd);

enum class Style { kPlain, kBold, kDim, kGood, kBad, kWarn };

// `text` in a style; unchanged where the terminal takes no colour.
std::string Styled(const Terminal& terminal, Style style, const std::string& text);

// Columns that UTF-8 `text` takes: 2 for wide characters, 0 for combining ones.
int DisplayWidth(std::string_view text);

// `text` cut to at most `width` columns, with "…" at its end when cut.
std::string FitWidth(std::string_view text, int width);

// `text` with control characters (all but newline and tab) made visible: what a server or a model
// sends must not steer the user's terminal.
std::string EscapeControls(std::string_view text);

}  // namespace mindforge::cli
