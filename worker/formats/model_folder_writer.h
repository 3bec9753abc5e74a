// Writes a model folder, or one file, under a temporary name and renames it when it is whole. It
// does not know where the tensors come from.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/formats/safetensors.h"

namespace mindforge {

// Borrows what the views look into for the duration of the call.
struct ModelFolderContents {
  nlohmann::json config;             // config.json
  nlohmann::json generation_config;  // generation_config.json
  std::vector<TensorView> tensors;
  std::optional<DType> dtype;                // unset: each tensor as it is
  std::map<std::string, std::string> texts;  // further files, by name
};

// Writes the folder `path` (those above it are made). OK: it is durable and complete. On error it
// is as it was before. ALREADY_EXISTS: it exists and is not empty, and `overwrite` is false.
// FAILED_PRECONDITION: it is a file, a link or a mount point; or it holds other things than a model
// folder's files, or is a checkpoint, and is not overwritten even so. RESOURCE_EXHAUSTED: the disk
// is full.
absl::Status WriteModelFolder(const std::string& path, const ModelFolderContents& contents,
                              bool overwrite);

// A file that `write` makes under the name that it is given.
struct NewFile {
  std::string path;
  std::function<absl::Status(const std::string&)> write;
};

// Lets every file be written under a temporary name beside its own and then gives them their names;
// folders are made when missing. On error older files are as they were before and no new one is
// left, but for a rename that fails after another replaced its file. ALREADY_EXISTS: a file exists
// and `overwrite` is false. FAILED_PRECONDITION: a folder has the name.
absl::Status WriteFilesAtomically(const std::vector<NewFile>& files, bool overwrite);

}  // namespace mindforge
