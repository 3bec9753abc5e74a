// Tensors by name, wherever they are stored: a .safetensors file, a .pth file, or a folder of one
// of them. For callers that know which names and shapes they want and not how files look.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/tensor_names.h"

namespace mindforge {

bool IsFolder(const std::string& path);

// Immutable once opened, so safe from any thread; views live as long as the object, moved or not.
class NamedTensors {
 public:
  // `path` is a file, told by its content, or a folder with model.safetensors (or shards with
  // their index) or pytorch_model.bin. Of a .pth file the state dict is taken (PthFile::StateDict);
  // names and stacks of experts are PlainTensors'. NOT_FOUND: no such file, or a folder without
  // weights. INVALID_ARGUMENT: a tensor in two shards, what PlainTensors refuses, a pickle that is
  // refused, a GGUF file (import it first), a git-lfs pointer. DATA_LOSS: a file that is not what
  // it claims.
  static absl::StatusOr<std::unique_ptr<NamedTensors>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  // In file order.
  const std::deque<TensorView>& tensors() const { return tensors_; }
  // Null when there is none of that name.
  const TensorView* Find(std::string_view name) const;

 private:
  explicit NamedTensors(std::string path) : path_(std::move(path)) {}
  absl::Status AddFile(const std::string& file);
  absl::Status AddSafetensors(const std::string& file);
  absl::Status AddFolder();
  absl::Status Name();

  const std::string path_;
  std::vector<TensorView> found_;  // until Name(), as the files spell them
  std::deque<TensorView> tensors_;
  std::unordered_map<std::string, const TensorView*> index_;
  std::vector<std::shared_ptr<const void>> owners_;  // of the bytes
};

}  // namespace mindforge
