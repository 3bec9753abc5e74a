// PyTorch's .pth files: a ZIP archive of one pickle and the bytes of tensors. The reader runs no
// code, whatever the file holds (see pickle.h), and hands out no byte outside its storages. It does
// not know models: a document is numbers, text, lists, dictionaries and tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/mapped_file.h"
#include "worker/formats/pickle.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/zip_file.h"

namespace mindforge {

// A document that torch.save wrote. Immutable, so safe from any thread; values and views live as
// long as the object.
class PthFile {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: the pickle asks for code (what for is named), or
  // holds what is not read. DATA_LOSS: cut off, damaged, or tensors that do not lie inside their
  // storage. RESOURCE_EXHAUSTED: it unpacks to far more than its size.
  static absl::StatusOr<std::unique_ptr<PthFile>> Open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const PickleValue& root() const { return document_->root(); }
  // The tensor that a value of the document is; null when it is none. The view has no name.
  const TensorView* TensorOf(const PickleValue& value) const;

  // The state dict: the document itself, or the one dictionary of tensors under its keys `model`,
  // `module`, `state_dict` or `model_state_dict`, nested or not. In file order, named; what is no
  // tensor is left out. INVALID_ARGUMENT: there is none, or more than one; the keys are named.
  absl::StatusOr<std::vector<TensorView>> StateDict() const;

 private:
  explicit PthFile(std::unique_ptr<MappedFile> file) : file_(std::move(file)) {}
  absl::Status Parse();
  absl::Status CheckByteOrder() const;
  absl::Status ResolveTensors(const PickleValue& value);
  absl::StatusOr<TensorView> Resolve(const PickleValue& call);
  absl::StatusOr<std::string_view> Storage(const std::string& key);
  absl::StatusOr<std::string_view> Content(const ZipEntry& entry);
  absl::StatusOr<char*> Allocate(uint64_t bytes);
  absl::StatusOr<const void*> InRowMajorOrder(const TensorView& view, std::string_view storage,
                                              const std::vector<int64_t>& strides);

  const std::unique_ptr<MappedFile> file_;
  std::unique_ptr<ZipArchive> archive_;
  std::string prefix_;  // the archive's folder, "name/"
  std::unique_ptr<PickleDocument> document_;
  std::unordered_map<const PickleValue*, TensorView> tensors_;
  std::unordered_map<std::string, std::string_view> storages_;  // read already, by key
  std::vector<std::unique_ptr<char[]>> buffers_;                // of what could not be mapped
  uint64_t allocated_ = 0;
};

// Builds a .pth: the pickle through pickle(), tensors through Tensor(). One thread at a time.
class PthWriter {
 public:
  // Creates or truncates.
  static absl::StatusOr<std::unique_ptr<PthWriter>> Create(const std::string& path);

  // For everything but tensors.
  PickleWriter& pickle() { return pickle_; }

  // Puts a tensor into the document, converted to `dtype`, and its bytes into the file.
  // INVALID_ARGUMENT: a dtype that PyTorch has no storage for, or values that `dtype` cannot hold.
  absl::Status Tensor(const TensorView& view, DType dtype);
  // Puts a dictionary of them. Those of the same memory and shape (a tied head) share a storage.
  absl::Status StateDict(const std::vector<TensorView>& tensors, DType dtype);

  // OK: the file is synced.
  absl::StatusOr<FileDigest> Finish();

 private:
  explicit PthWriter(std::unique_ptr<ZipWriter> zip) : zip_(std::move(zip)) {}
  void Rebuild(int64_t storage, const std::vector<int64_t>& shape, DType dtype);

  const std::unique_ptr<ZipWriter> zip_;
  PickleWriter pickle_;
  int64_t storages_ = 0;
};

// A state dict alone, as the reference writes its weights. On error the file may be left half
// written.
absl::StatusOr<FileDigest> WriteStateDictPth(const std::string& path,
                                             const std::vector<TensorView>& tensors, DType dtype);

}  // namespace mindforge
