#include "cli/table.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/check.h"

namespace mindforge::cli {
namespace {

constexpr int kGap = 2;
constexpr int kNarrowest = 8;  // what a column is cut to at most

std::string OneLine(const std::string& text) {
  return EscapeControls(absl::StrReplaceAll(text, {{"\n", " "}, {"\t", " "}}));
}

int Total(const std::vector<int>& widths) {
  if (widths.empty()) return 0;
  return std::accumulate(widths.begin(), widths.end(), 0) +
         kGap * (static_cast<int>(widths.size()) - 1);
}

// Cuts the widest shrinking column until all fit or none can give more.
void Shrink(std::vector<int>& widths, const std::vector<const Column*>& columns, int limit) {
  while (Total(widths) > limit) {
    int widest = -1;
    for (int i = 0; i < static_cast<int>(widths.size()); ++i) {
      if (!columns[i]->shrinks || widths[i] <= kNarrowest) continue;
      if (widest < 0 || widths[i] > widths[widest]) widest = i;
    }
    if (widest < 0) return;
    --widths[widest];
  }
}

}  // namespace

void Table::AddRow(std::vector<Cell> cells) {
  MF_CHECK_EQ(cells.size(), columns_.size()) << "a row has a cell for each column";
  for (Cell& cell : cells) cell.text = OneLine(cell.text);
  rows_.push_back(std::move(cells));
}

void Table::Print(std::ostream& out, const Terminal& terminal, bool wide) const {
  std::vector<size_t> shown;
  std::vector<const Column*> columns;
  std::vector<int> widths;
  for (size_t i = 0; i < columns_.size(); ++i) {
    if (columns_[i].wide_only && !wide) continue;
    int width = DisplayWidth(columns_[i].title);
    for (const auto& row : rows_) width = std::max(width, DisplayWidth(row[i].text));
    shown.push_back(i);
    columns.push_back(&columns_[i]);
    widths.push_back(width);
  }
  if (terminal.width > 0) {
    Shrink(widths, columns, terminal.width);
    while (widths.size() > 1 && Total(widths) > terminal.width) {
      widths.pop_back();
      shown.pop_back();
    }
  }
  const auto print = [&](size_t i, std::string_view text, Style style) {
    const std::string fitted = FitWidth(text, widths[i]);
    const std::string padding(widths[i] - DisplayWidth(fitted), ' ');
    const bool last = i + 1 == shown.size();
    if (columns_[shown[i]].right) out << padding;
    out << Styled(terminal, style, fitted);
    if (!columns_[shown[i]].right && !last) out << padding;
    out << (last ? "\n" : std::string(kGap, ' '));
  };
  for (size_t i = 0; i < shown.size(); ++i) print(i, columns_[shown[i]].title, Style::kBold);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < shown.size(); ++i) print(i, row[shown[i]].text, row[shown[i]].style);
  }
}

}  // namespace mindforge::cli
