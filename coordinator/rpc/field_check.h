// Checks of a request's fields that say what the value is and what could stand there, and gather
// what is wrong. It does not know what the fields mean.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/error_details.h"

namespace mindforge {

constexpr int64_t kLots = int64_t{1} << 40;  // no limit that a message would name
constexpr size_t kMaxPathBytes = 4096;

// Appends to `out`, which it borrows. One thread at a time.
class FieldCheck {
 public:
  explicit FieldCheck(std::vector<FieldViolation>& out) : out_(out) {}

  bool Require(bool holds, std::string field, std::string description) {
    if (!holds) out_.push_back({std::move(field), std::move(description)});
    return holds;
  }

  bool Range(const std::string& field, int64_t value, int64_t low, int64_t high) {
    return Require(value >= low && value <= high, field,
                   high >= kLots
                       ? absl::StrCat("is ", value, ", must be at least ", low)
                       : absl::StrCat("is ", value, ", must be from ", low, " to ", high));
  }

  // `open_low`: `low` itself is not allowed.
  bool Range(const std::string& field, double value, double low, double high,
             bool open_low = false) {
    const bool holds =
        std::isfinite(value) && value <= high && (open_low ? value > low : value >= low);
    return Require(holds, field,
                   absl::StrCat("is ", value, ", must be ", open_low ? "above " : "from ", low,
                                open_low ? ", at most " : " to ", high));
  }

  bool OneOf(const std::string& field, const std::string& value,
             const std::vector<std::string>& choices) {
    std::string list;
    for (size_t i = 0; i < choices.size(); ++i) {
      absl::StrAppend(&list, i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ", choices[i]);
    }
    return Require(std::find(choices.begin(), choices.end(), value) != choices.end(), field,
                   absl::StrCat("is '", value, "', must be ", list));
  }

  bool Path(const std::string& field, const std::string& path, absl::string_view what,
            bool required) {
    if (path.empty()) {
      return Require(!required, field, absl::StrCat("is missing: give ", what));
    }
    return Require(path.size() <= kMaxPathBytes, field,
                   absl::StrCat("has ", path.size(), " bytes, at most ", kMaxPathBytes)) &&
           Require(path.find('\0') == std::string::npos, field, "holds a zero byte") &&
           Require(path[0] == '/', field,
                   absl::StrCat("is '", path,
                                "', must be an absolute path: workers have other "
                                "working directories than you"));
  }

 private:
  std::vector<FieldViolation>& out_;
};

}  // namespace mindforge
