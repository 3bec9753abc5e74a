// Reads the fields of one JSON object and remembers which: problems are gathered, not returned, so
// that a user hears of all of them at once. It does not know what fields mean.
#pragma once

#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace mindforge {

// The value as JSON, cut to what fits into a message.
inline std::string ShownJson(const nlohmann::json& value) {
  std::string shown = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
  return shown;
}

// Borrows the object and the list of problems. A null counts as absent.
class FieldReader {
 public:
  using Json = nlohmann::json;

  FieldReader(const Json& json, std::string prefix, std::vector<std::string>* problems)
      : json_(json), prefix_(std::move(prefix)), problems_(*problems) {}

  // Null when absent or null.
  const Json* Find(const std::string& name) {
    read_.insert(name);
    const auto it = json_.find(name);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }

  // Each Read leaves `out` as it is, and returns false, when the field is absent or no such value.
  bool Read(const char* name, int64_t* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    // YAML and other languages write whole numbers as floats.
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(std::abs(number) < 9e15) || number != std::floor(number)) {
      return Problem(name, "an integer", *value);
    }
    *out = static_cast<int64_t>(number);
    return true;
  }

  bool Read(const char* name, double* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_number()) return Problem(name, "a number", *value);
    *out = value->get<double>();
    return true;
  }

  bool Read(const char* name, bool* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return Problem(name, "true or false", *value);
    *out = value->get<bool>();
    return true;
  }

  bool Read(const char* name, std::string* out) {
    const Json* value = Find(name);
    if (value == nullptr) return false;
    if (!value->is_string()) return Problem(name, "a string", *value);
    *out = value->get<std::string>();
    return true;
  }

  bool Problem(const char* name, const char* expected, const Json& value) {
    Problem(name, absl::StrCat("must be ", expected, ", it is ", ShownJson(value)));
    return false;
  }
  void Problem(const std::string& name, const std::string& reason) {
    problems_.push_back(absl::StrCat(prefix_, name, " ", reason));
  }

  // Fields with a value that nobody asked for, without the prefix.
  std::vector<std::string> Unread() const {
    std::vector<std::string> names;
    for (const auto& [name, value] : json_.items()) {
      if (!value.is_null() && !read_.contains(name)) names.push_back(name);
    }
    return names;
  }

 private:
  const Json& json_;
  const std::string prefix_;
  std::vector<std::string>& problems_;
  std::set<std::string> read_;
};

}  // namespace mindforge
