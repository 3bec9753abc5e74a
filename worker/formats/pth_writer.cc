#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/pth.h"
#include "worker/formats/pth_names.h"

namespace mindforge {
namespace {

constexpr char kFolder[] = "archive/";
constexpr char kVersion[] = "3\n";

}  // namespace

absl::StatusOr<std::unique_ptr<PthWriter>> PthWriter::Create(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<ZipWriter> zip, ZipWriter::Create(path));
  return std::unique_ptr<PthWriter>(new PthWriter(std::move(zip)));
}

absl::Status PthWriter::Tensor(const TensorView& view, DType dtype) {
  if (StorageName(dtype).empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", view.name, "\": PyTorch has no storage of ", std::string(DTypeName(dtype))));
  }
  const std::string name = absl::StrCat(kFolder, "data/", storages_);
  if (view.dtype == dtype) {
    RETURN_IF_ERROR(
        zip_->Add(name, {static_cast<const char*>(view.data), static_cast<size_t>(view.bytes)}));
  } else {
    ASSIGN_OR_RETURN(const std::string bytes, ConvertTensor(view, dtype));
    RETURN_IF_ERROR(zip_->Add(name, bytes));
  }
  Rebuild(storages_++, view.shape, dtype);
  return absl::OkStatus();
}

void PthWriter::Rebuild(int64_t storage, const std::vector<int64_t>& shape, DType dtype) {
  pickle_.Global("torch._utils", "_rebuild_tensor_v2");
  pickle_.BeginTuple();
  pickle_.BeginTuple();
  pickle_.Text("storage");
  pickle_.Global("torch", StorageName(dtype));
  pickle_.Text(absl::StrCat(storage));
  pickle_.Text("cpu");
  pickle_.Int(ElementCount(shape));
  pickle_.EndTuple();
  pickle_.Persistent();
  pickle_.Int(0);
  pickle_.BeginTuple();
  for (const int64_t size : shape) pickle_.Int(size);
  pickle_.EndTuple();
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = strides.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  pickle_.BeginTuple();
  for (const int64_t stride : strides) pickle_.Int(stride);
  pickle_.EndTuple();
  pickle_.Bool(false);         // requires_grad
  pickle_.BeginOrderedDict();  // hooks
  pickle_.EndDict();
  pickle_.EndTuple();
  pickle_.Call();
}

absl::StatusOr<FileDigest> PthWriter::Finish() {
  RETURN_IF_ERROR(zip_->Add(absl::StrCat(kFolder, "data.pkl"), std::move(pickle_).Finish()));
  RETURN_IF_ERROR(zip_->Add(absl::StrCat(kFolder, "byteorder"), "little"));
  RETURN_IF_ERROR(zip_->Add(absl::StrCat(kFolder, "version"), kVersion));
  return zip_->Finish();
}

absl::Status PthWriter::StateDict(const std::vector<TensorView>& tensors, DType dtype) {
  std::map<std::pair<const void*, std::vector<int64_t>>, int64_t> written;  // -> storage
  pickle_.BeginOrderedDict();
  for (const TensorView& view : tensors) {
    pickle_.Text(view.name);
    const auto [it, first] = written.emplace(std::pair(view.data, view.shape), storages_);
    if (first) {
      RETURN_IF_ERROR(Tensor(view, dtype));
    } else {
      Rebuild(it->second, view.shape, dtype);
    }
  }
  pickle_.EndDict();
  return absl::OkStatus();
}

absl::StatusOr<FileDigest> WriteStateDictPth(const std::string& path,
                                             const std::vector<TensorView>& tensors, DType dtype) {
  ASSIGN_OR_RETURN(const std::unique_ptr<PthWriter> writer, PthWriter::Create(path));
  RETURN_IF_ERROR(writer->StateDict(tensors, dtype));
  return writer->Finish();
}

}  // namespace mindforge
