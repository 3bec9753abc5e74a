// Gives what was written under a temporary name its own name, so that at every moment the old or
// the new stands there whole. It does not know what is in it.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace mindforge {

// Moves the file `temporary` to `path`, beside it. ALREADY_EXISTS, decided by the rename itself:
// something stands there and `replace` is false.
absl::Status PublishFile(const std::string& temporary, const std::string& path, bool replace);

// Moves the folder `temporary` to `path`, beside it, and makes the name durable. An empty folder
// makes way; with `replace` any does: the two change places and the old one is removed (a failure
// of that is logged: the new one stands). ALREADY_EXISTS as above. On error `path` is as it was.
absl::Status PublishFolder(const std::string& temporary, const std::string& path, bool replace);

}  // namespace mindforge
