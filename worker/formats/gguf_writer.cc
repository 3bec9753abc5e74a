#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/dtype_convert.h"
#include "worker/formats/gguf.h"

namespace mindforge {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;
constexpr uint32_t kTypeUint32 = 4;
constexpr uint32_t kTypeInt32 = 5;
constexpr uint32_t kTypeFloat32 = 6;
constexpr uint32_t kTypeBool = 7;
constexpr uint32_t kTypeString = 8;
constexpr uint32_t kTypeArray = 9;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutText(std::string_view text, std::string* out) {
  Put<uint64_t>(text.size(), out);
  *out += text;
}

uint32_t GgufType(DType dtype) { return dtype == DType::kF32 ? 0 : dtype == DType::kF16 ? 1 : 30; }

uint64_t Aligned(uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufMetadata::Begin(std::string_view key, uint32_t type) {
  PutText(key, &bytes_);
  Put(type, &bytes_);
  ++count_;
}

void GgufMetadata::Uint32(std::string_view key, int64_t value) {
  Begin(key, kTypeUint32);
  Put(static_cast<uint32_t>(value), &bytes_);
}

void GgufMetadata::Float32(std::string_view key, double value) {
  Begin(key, kTypeFloat32);
  Put(static_cast<float>(value), &bytes_);
}

void GgufMetadata::Bool(std::string_view key, bool value) {
  Begin(key, kTypeBool);
  Put(static_cast<uint8_t>(value), &bytes_);
}

void GgufMetadata::Text(std::string_view key, std::string_view value) {
  Begin(key, kTypeString);
  PutText(value, &bytes_);
}

void GgufMetadata::Texts(std::string_view key, const std::vector<std::string>& values) {
  Begin(key, kTypeArray);
  Put(kTypeString, &bytes_);
  Put<uint64_t>(values.size(), &bytes_);
  for (const std::string& value : values) PutText(value, &bytes_);
}

void GgufMetadata::Int32s(std::string_view key, const std::vector<int32_t>& values) {
  Begin(key, kTypeArray);
  Put(kTypeInt32, &bytes_);
  Put<uint64_t>(values.size(), &bytes_);
  for (const int32_t value : values) Put(value, &bytes_);
}

absl::StatusOr<FileDigest> WriteGguf(const std::string& path, const GgufMetadata& metadata,
                                     const std::vector<GgufTensor>& tensors) {
  std::string header = "GGUF";
  Put(kVersion, &header);
  Put<uint64_t>(tensors.size(), &header);
  Put(metadata.count(), &header);
  header += metadata.bytes();
  uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    if (!IsWeightDType(tensor.dtype)) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF tensors are written as F32, F16 or "
                       "BF16, not ",
                       std::string(DTypeName(tensor.dtype))));
    }
    const std::vector<int64_t>& shape = tensor.view.shape;
    PutText(tensor.view.name, &header);
    Put(static_cast<uint32_t>(shape.size()), &header);
    for (size_t i = shape.size(); i-- > 0;) Put(static_cast<uint64_t>(shape[i]), &header);
    Put(GgufType(tensor.dtype), &header);
    Put(offset, &header);
    const int64_t bytes = tensor.view.elements() * DTypeBytes(tensor.dtype);
    offset = Aligned(offset + static_cast<uint64_t>(bytes));
  }
  header.resize(Aligned(header.size()), '\0');
  ASSIGN_OR_RETURN(const std::unique_ptr<DigestFile> file, DigestFile::Create(path));
  RETURN_IF_ERROR(file->Append(header));
  for (const GgufTensor& tensor : tensors) {
    ASSIGN_OR_RETURN(std::string bytes, ConvertTensor(tensor.view, tensor.dtype));
    bytes.resize(Aligned(bytes.size()), '\0');
    RETURN_IF_ERROR(file->Append(bytes));
  }
  return file->Finish();
}

}  // namespace mindforge
