// MANIFEST.json: size and XXH3-64 of each file of a checkpoint, with a digest of its own. It does
// not know what the files hold.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

inline constexpr char kManifestName[] = "MANIFEST.json";

using Manifest = std::map<std::string, FileDigest>;  // by file name

std::string ManifestToText(const Manifest& manifest);
// DATA_LOSS when the text is not a sound manifest.
absl::StatusOr<Manifest> ManifestFromText(const std::string& text);

// DATA_LOSS naming the file and what differs.
absl::Status CheckFiles(const std::string& folder, const Manifest& manifest);

}  // namespace mindforge
