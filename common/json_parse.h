// JSON text to a value, with the place of an error in words instead of an exception.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/git_lfs.h"
#include "nlohmann/json.hpp"

namespace mindforge {

// INVALID_ARGUMENT: "what: parse error at line 3, column 7: …", or a git-lfs pointer in its place.
inline absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view what) {
  if (IsGitLfsPointer(text)) return GitLfsPointerError(what);
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at …"
    if (const size_t end = reason.find("] "); end != std::string_view::npos) {
      reason.remove_prefix(end + 2);
    }
    // What the parser read last may be megabytes long, or no text at all.
    reason = reason.substr(0, reason.find("; last read: '"));
    return absl::InvalidArgumentError(absl::StrCat(std::string(what), ": ", std::string(reason)));
  }
}

}  // namespace mindforge
