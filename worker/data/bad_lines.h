// The lines of a dataset that cannot be used: how many of which file, and why of the first ones. It
// does not know whether they are refused or left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mindforge {

struct BadLine {
  int64_t number = 0;  // in its file, from 1
  std::string reason;  // "not UTF-8 (looks like GBK) at offset 10, byte 0xB4"
};

// Bounded however many there are. Not thread-safe.
class BadLines {
 public:
  static constexpr size_t kShownLines = 10;  // of one file, and of all
  static constexpr size_t kShownFiles = 20;

  // `count` more of the file, `first` of them in order. Files come one after the other.
  void Add(const std::string& path, int64_t count, const std::vector<BadLine>& first);

  int64_t count() const { return count_; }

  // "3 lines cannot be used: line 2: not JSON; …"; with the file's path where `name_files`.
  std::string InWords(bool name_files) const;

  // Of each file "PATH: 3 lines cannot be used: …", then how many files more.
  std::vector<std::string> PerFile() const;

 private:
  struct OfFile {
    std::string path;
    int64_t count = 0;
    std::vector<BadLine> first;
  };

  std::vector<OfFile> files_;  // the first kShownFiles
  int64_t more_files_ = 0;
  std::string last_path_;
  int64_t count_ = 0;
};

}  // namespace mindforge
