#include "worker/data/bad_lines.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mindforge {
namespace {

// "3 lines cannot be used: line 2: not JSON; …; and 1 more".
std::string InWords(int64_t count, const std::vector<std::string>& shown) {
  std::string text = absl::StrCat(count, count == 1 ? " line" : " lines",
                                  " cannot be used: ", absl::StrJoin(shown, "; "));
  const auto told = static_cast<int64_t>(shown.size());
  if (count > told) absl::StrAppend(&text, "; and ", count - told, " more");
  return text;
}

std::string PlaceAndReason(const BadLine& line) {
  return absl::StrCat("line ", line.number, ": ", line.reason);
}

}  // namespace

void BadLines::Add(const std::string& path, int64_t count, const std::vector<BadLine>& first) {
  if (count == 0) return;
  count_ += count;
  const bool another = last_path_ != path;
  last_path_ = path;
  if (another && files_.size() == kShownFiles) ++more_files_;
  if (another && files_.size() < kShownFiles) files_.push_back({.path = path});
  OfFile& file = files_.back();
  if (file.path != path) return;
  file.count += count;
  for (const BadLine& line : first) {
    if (file.first.size() < kShownLines) file.first.push_back(line);
  }
}

std::string BadLines::InWords(bool name_files) const {
  std::vector<std::string> shown;
  for (const OfFile& file : files_) {
    for (const BadLine& line : file.first) {
      if (shown.size() == kShownLines) break;
      shown.push_back(
          absl::StrCat(name_files ? absl::StrCat(file.path, ", ") : "", PlaceAndReason(line)));
    }
  }
  return mindforge::InWords(count_, shown);
}

std::vector<std::string> BadLines::PerFile() const {
  std::vector<std::string> all;
  for (const OfFile& file : files_) {
    std::vector<std::string> shown;
    for (const BadLine& line : file.first) shown.push_back(PlaceAndReason(line));
    all.push_back(absl::StrCat(file.path, ": ", mindforge::InWords(file.count, shown)));
  }
  if (more_files_ > 0)
    all.push_back(absl::StrCat("and such lines in ", more_files_, " more files"));
  return all;
}

}  // namespace mindforge
