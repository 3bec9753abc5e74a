#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/formats/digest_file.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/safetensors.h"

namespace mindforge {
namespace {

constexpr size_t kAlignment = 8;

absl::Status CheckTensors(const std::vector<const TensorView*>& tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& tensor = *tensors[i];
    const int64_t elements = tensor.elements();
    if (elements < 0 || elements * DTypeBytes(tensor.dtype) != tensor.bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", tensor.name, "\": shape ", ShapeToString(tensor.shape), " of ",
                       std::string(DTypeName(tensor.dtype)), " is not ", tensor.bytes, " bytes"));
    }
    if (tensor.name == "__metadata__" || tensor.name.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a tensor cannot be named \"", tensor.name, "\""));
    }
  }
  std::vector<std::string_view> names;
  for (const TensorView* tensor : tensors) names.push_back(tensor->name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("two tensors are named \"", std::string(*twice), "\""));
  }
  return absl::OkStatus();
}

std::string HeaderOf(const std::vector<const TensorView*>& tensors,
                     const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json::object_t members;
  if (!metadata.empty()) members.emplace_back("__metadata__", metadata);
  int64_t offset = 0;
  for (const TensorView* tensor : tensors) {
    members.emplace_back(
        tensor->name, nlohmann::ordered_json{{"dtype", std::string(DTypeName(tensor->dtype))},
                                             {"shape", tensor->shape},
                                             {"data_offsets", {offset, offset + tensor->bytes}}});
    offset += tensor->bytes;
  }
  std::string header = nlohmann::ordered_json(std::move(members)).dump();
  header.resize((header.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  return header;
}

}  // namespace

absl::StatusOr<FileDigest> WriteSafetensors(const std::string& path,
                                            absl::Span<const TensorView> tensors,
                                            const std::map<std::string, std::string>& metadata) {
  std::vector<const TensorView*> ordered;
  for (const TensorView& tensor : tensors) ordered.push_back(&tensor);
  std::sort(ordered.begin(), ordered.end(), [](const TensorView* a, const TensorView* b) {
    const int64_t a_width = DTypeBytes(a->dtype);
    const int64_t b_width = DTypeBytes(b->dtype);
    return a_width != b_width ? a_width > b_width : a->name < b->name;
  });
  RETURN_IF_ERROR(CheckTensors(ordered)) << path;
  const std::string header = HeaderOf(ordered, metadata);
  const uint64_t header_bytes = header.size();
  ASSIGN_OR_RETURN(std::unique_ptr<DigestFile> file, DigestFile::Create(path));
  RETURN_IF_ERROR(file->Append(&header_bytes, sizeof(header_bytes)));
  RETURN_IF_ERROR(file->Append(header));
  for (const TensorView* tensor : ordered) {
    RETURN_IF_ERROR(file->Append(tensor->data, static_cast<size_t>(tensor->bytes)));
  }
  return file->Finish();
}

absl::StatusOr<FileDigest> WriteSafetensorsAs(const std::string& path,
                                              absl::Span<const TensorView> tensors, DType dtype,
                                              const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> converted(tensors.size());
  std::vector<TensorView> views(tensors.begin(), tensors.end());
  for (size_t i = 0; i < views.size(); ++i) {
    if (views[i].dtype == dtype) continue;
    ASSIGN_OR_RETURN(converted[i], ConvertTensor(views[i], dtype));
    views[i].dtype = dtype;
    views[i].data = converted[i].data();
    views[i].bytes = static_cast<int64_t>(converted[i].size());
  }
  return WriteSafetensors(path, views, metadata);
}

}  // namespace mindforge
