// Rows and columns for people.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "cli/terminal.h"

namespace mindforge::cli {

struct Column {
  std::string title;
  bool right = false;      // numbers
  bool shrinks = false;    // may be cut where the terminal is too narrow
  bool wide_only = false;  // shown with -o wide alone
};

struct Cell {
  Cell(std::string text, Style style = Style::kPlain)  // NOLINT(google-explicit-constructor)
      : text(std::move(text)), style(style) {}
  Cell(const char* text) : text(text) {}  // NOLINT(google-explicit-constructor)

  std::string text;
  Style style = Style::kPlain;
};

// A table. On a terminal it fits the width: columns that shrink are cut, the widest first, and then
// those at the right are left out; elsewhere nothing is cut.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // REQUIRES: one cell a column, those of wide-only columns included.
  void AddRow(std::vector<Cell> cells);
  void Print(std::ostream& out, const Terminal& terminal, bool wide) const;

 private:
  const std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace mindforge::cli
