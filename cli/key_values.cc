#include "cli/key_values.h"

#include <algorithm>

#include "cli/terminal.h"

namespace mindforge::cli {

void KeyValues::Add(const std::string& key, const std::string& value) {
  if (!value.empty()) lines_.emplace_back(key, EscapeControls(value));
}

void KeyValues::Print(std::ostream& out) const {
  int width = 0;
  for (const auto& [key, value] : lines_) width = std::max(width, DisplayWidth(key));
  for (const auto& [key, value] : lines_) {
    out << key << ":" << std::string(width - DisplayWidth(key) + 2, ' ') << value << "\n";
  }
}

}  // namespace mindforge::cli
