// "Key:   value" lines with the values below each other.
#pragma once

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace mindforge::cli {

class KeyValues {
 public:
  // An empty value is left out.
  void Add(const std::string& key, const std::string& value);
  void Print(std::ostream& out) const;

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
};

}  // namespace mindforge::cli
