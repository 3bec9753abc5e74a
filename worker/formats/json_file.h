// A small JSON file beside a model: a configuration, a state, an index.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/durable_file.h"
#include "common/json_parse.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace mindforge {

// Errors as ReadFile (at most 64 MiB are read) and ParseJson.
inline absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path) {
  constexpr size_t kMaxBytes = size_t{64} << 20;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxBytes));
  return ParseJson(text, path);
}

}  // namespace mindforge
