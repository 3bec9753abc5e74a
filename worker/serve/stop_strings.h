// Finds stop strings in a stream of text without ever letting part of one out: text that could be
// the beginning of a stop string is held back until it is certain.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mindforge {

// For one thread. Text comes in whole UTF-8 characters and leaves so.
class StopStringMatcher {
 public:
  explicit StopStringMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Takes more text, returns what may be delivered. At the first match returns what was before it;
  // nothing comes after.
  std::string Push(std::string_view text);
  // The end of the text: what was held back, unless a stop string was found.
  std::string Flush();
  bool matched() const { return matched_; }

 private:
  const std::vector<std::string> stops_;
  std::string held_;
  bool matched_ = false;
};

}  // namespace mindforge
