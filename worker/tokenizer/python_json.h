// JSON text as Python's json.dumps(json.loads(text), ensure_ascii=False) writes it, which is what
// `tojson` does in a chat template: a prompt must have the very bytes that a model was trained on.
// It keeps the order of keys and every digit of an integer, which a tree of values would lose.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mindforge {

// INVALID_ARGUMENT: not JSON (with the byte), deeper than 256 levels, or half of a surrogate pair,
// which no text can hold. NaN and Infinity are not JSON, although Python reads them.
absl::StatusOr<std::string> ToPythonJson(std::string_view text);

// The same of one that must be an object.
absl::StatusOr<std::string> ToPythonJsonObject(std::string_view text);

}  // namespace mindforge
