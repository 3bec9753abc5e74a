// GGUF version 3 files: typed metadata and tensors, as llama.cpp reads them. The reader trusts
// nothing in the file. It does not know what keys and tensors mean (gguf_model.h does).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "worker/formats/digest_file.h"
#include "worker/formats/mapped_file.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// Immutable; views live as long as the object.
class GgufFile {
 public:
  // NOT_FOUND: no such file. DATA_LOSS: not a sound GGUF file, with what is wrong.
  // INVALID_ARGUMENT: a version or a tensor type that is not read (quantized ones: the type is
  // named).
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  // An object: numbers, text, truth values and arrays of them by key.
  const nlohmann::json& metadata() const { return metadata_; }
  // In file order; shapes as PyTorch has them (slowest dimension first).
  const std::vector<TensorView>& tensors() const { return tensors_; }

 private:
  explicit GgufFile(std::unique_ptr<MappedFile> file) : file_(std::move(file)) {}
  absl::Status Parse();

  const std::unique_ptr<MappedFile> file_;
  nlohmann::json metadata_ = nlohmann::json::object();
  std::vector<TensorView> tensors_;
};

// Builds the metadata of a file. Keys are written in the order they are put.
class GgufMetadata {
 public:
  void Uint32(std::string_view key, int64_t value);
  void Float32(std::string_view key, double value);
  void Bool(std::string_view key, bool value);
  void Text(std::string_view key, std::string_view value);
  void Texts(std::string_view key, const std::vector<std::string>& values);
  void Int32s(std::string_view key, const std::vector<int32_t>& values);

  const std::string& bytes() const { return bytes_; }
  uint64_t count() const { return count_; }

 private:
  void Begin(std::string_view key, uint32_t type);

  std::string bytes_;
  uint64_t count_ = 0;
};

// A tensor to be written as `dtype` (F32, F16 or BF16).
struct GgufTensor {
  TensorView view;
  DType dtype = DType::kF32;
};

// Creates or truncates `path` and syncs it. On error the file may be left half written.
// INVALID_ARGUMENT: a value that the dtype cannot hold.
absl::StatusOr<FileDigest> WriteGguf(const std::string& path, const GgufMetadata& metadata,
                                     const std::vector<GgufTensor>& tensors);

}  // namespace mindforge
