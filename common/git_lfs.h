// What a repository cloned without git-lfs holds in place of a large file.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mindforge {

inline bool IsGitLfsPointer(std::string_view content) {
  return content.starts_with("version https://git-lfs.github.com/spec/");
}

inline absl::Status GitLfsPointerError(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(what),
      " is a git-lfs pointer, not the file itself; fetch the file: run `git lfs pull` in its "
      "repository, or download it again"));
}

}  // namespace mindforge
