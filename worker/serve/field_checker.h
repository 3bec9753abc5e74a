// Gathers what is wrong with a request, field by field.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/error_details.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/message.h"

namespace mindforge {

class FieldChecker {
 public:
  void Add(std::string field, std::string description) {
    violations_.push_back({std::move(field), std::move(description)});
  }
  void Require(bool holds, const std::string& field, const std::string& description) {
    if (!holds) Add(field, description);
  }
  void Range(const std::string& field, int64_t value, int64_t low, int64_t high) {
    Require(value >= low && value <= high, field,
            absl::StrCat("is ", value, "; expected ", low, " to ", high));
  }
  // Each id in [0, vocab_size); the first that is not is named.
  template <typename Ids>
  void TokenIds(const std::string& field, const Ids& ids, int64_t vocab_size) {
    for (int64_t i = 0; i < static_cast<int64_t>(ids.size()); ++i) {
      const int64_t id = ids[static_cast<int>(i)];
      if (id >= 0 && id < vocab_size) continue;
      Add(absl::StrCat(field, "[", i, "]"),
          absl::StrCat("is ", id, "; the vocabulary has 0 to ", vocab_size - 1));
      return;
    }
  }
  // A duration that is set and positive.
  absl::Duration Positive(const std::string& field, const google::protobuf::Duration& value);
  // Fields that this program does not know are errors: the caller relies on something that would
  // not happen.
  void UnknownFields(const google::protobuf::Message& message, const std::string& prefix);

  bool ok() const { return violations_.empty(); }
  absl::Status status() const {
    return violations_.empty() ? absl::OkStatus() : InvalidArgument(violations_);
  }

 private:
  std::vector<FieldViolation> violations_;
};

}  // namespace mindforge
