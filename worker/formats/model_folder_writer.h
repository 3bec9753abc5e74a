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
// FAILED_PRECONDITION: it holds other things than a model folder's files, or is a checkpoint, and
// is not overwritten even so. RESOURCE_EXHAUSTED: the disk is full.
absl::Status WriteModelFolder(const std::string& path, const ModelFolderContents& contents,
                              bool overwrite);

// Lets `write` make a file under a temporary name beside `path` and gives it that name; the folder
// is made when missing. On error an older file is as it was before. ALREADY_EXISTS: the file exists
// and `overwrite` is false.
absl::Status WriteFileAtomically(const std::string& path, bool overwrite,
                                 const std::function<absl::Status(const std::string&)>& write);

}  // namespace mindforge
