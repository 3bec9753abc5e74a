// A small file in a job's checkpoint folder that tells the storage it is on from any other: a host
// on which the storage is not mounted may have a folder of the same path, but not the same marker.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace mindforge {

// What the marker in `folder` says. NOT_FOUND: there is none, or no such folder.
absl::StatusOr<std::string> ReadStorageMarker(const std::string& folder);

// The same; draws and writes one, durably, where there is none. `folder` is made if need be.
absl::StatusOr<std::string> EnsureStorageMarker(const std::string& folder);

}  // namespace mindforge
