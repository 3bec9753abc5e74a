// RETURN_IF_ERROR and ASSIGN_OR_RETURN: the only macros that leave a function early.
//
//   RETURN_IF_ERROR(Open(path));
//   RETURN_IF_ERROR(Open(path)) << "while loading job " << id;   // "while loading job x: <cause>"
//   ASSIGN_OR_RETURN(std::string text, ReadFile(path, kMaxBytes));
//
// The code and payloads of the first error are kept; context is put in front of its message.
#pragma once

#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mindforge {

// `status` with "context: " in front of its message; code and payloads stay. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

namespace internal {

// Collects context for a failed status and converts to absl::Status.
class StatusBuilder {
 public:
  explicit StatusBuilder(absl::Status status) : status_(std::move(status)) {}

  template <typename T>
  StatusBuilder&& operator<<(const T& part) && {
    context_ << part;
    return std::move(*this);
  }

  operator absl::Status() && {  // NOLINT(google-explicit-constructor): that is its purpose.
    const std::string context = context_.str();
    return context.empty() ? std::move(status_) : Annotate(status_, context);
  }

 private:
  absl::Status status_;
  std::ostringstream context_;
};

inline absl::Status AsStatus(absl::Status status) { return status; }
template <typename T>
absl::Status AsStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

}  // namespace internal
}  // namespace mindforge

#define MF_CONCAT_INNER(a, b) a##b
#define MF_CONCAT(a, b) MF_CONCAT_INNER(a, b)

// A loop that runs at most once: an `if` with an `else` would catch the else of an `if` around it.
#define RETURN_IF_ERROR(...)                                                  \
  for (absl::Status mf_status = ::mindforge::internal::AsStatus(__VA_ARGS__); \
       ABSL_PREDICT_FALSE(!mf_status.ok());)                                  \
  return ::mindforge::internal::StatusBuilder(std::move(mf_status))

#define ASSIGN_OR_RETURN(lhs, ...) \
  MF_ASSIGN_OR_RETURN_IMPL(MF_CONCAT(mf_result_, __LINE__), lhs, __VA_ARGS__)
#define MF_ASSIGN_OR_RETURN_IMPL(result, lhs, ...)                         \
  auto result = (__VA_ARGS__);                                             \
  if (ABSL_PREDICT_FALSE(!result.ok())) return std::move(result).status(); \
  lhs = std::move(result).value()
