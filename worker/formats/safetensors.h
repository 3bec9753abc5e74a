// The safetensors file format: named tensors behind a JSON header. The reader maps the file and
// trusts nothing in it: sizes, offsets, overlaps and dtypes are checked before a byte is handed
// out. It does not know what the tensors mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/formats/mapped_file.h"

namespace mindforge {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
  kC64,
  kC128,
};

// The format's own spelling: F32, BF16, I64 …
std::string_view DTypeName(DType dtype);
// INVALID_ARGUMENT for a spelling the format does not have.
absl::StatusOr<DType> ParseDType(std::string_view name);
int64_t DTypeBytes(DType dtype);
// "[2, 3]"
std::string ShapeToString(absl::Span<const int64_t> shape);
// Product of the dimensions, 1 for a scalar; -1 when it does not fit or a dimension is negative.
int64_t ElementCount(absl::Span<const int64_t> shape);

// A tensor in someone else's memory, in row-major order.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  int64_t bytes = 0;

  int64_t elements() const { return ElementCount(shape); }
};

// A read-only mapped safetensors file. Immutable, so safe from any thread; views live as long as
// the file object.
class SafetensorsFile {
 public:
  // NOT_FOUND: no such file. DATA_LOSS: the content is not a sound safetensors file, with the place
  // and what is wrong. Every view of an opened file lies inside it.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return file_->path(); }
  // In file order.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // Null when there is none of that name.
  const TensorView* Find(std::string_view name) const;
  // The header's __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  absl::Status Parse();
  absl::Status ParseHeader(std::string_view header, uint64_t data_bytes);

  std::unique_ptr<MappedFile> file_;
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

// Size and XXH3-64 of a file's bytes, taken while they were written.
struct FileDigest {
  int64_t bytes = 0;
  uint64_t xxh3 = 0;
};

// Writes `tensors` to `path` (created or truncated), in descending order of dtype size and then
// name as the format's own library does, and fsyncs the file; the caller syncs the folder. The
// header is padded so that tensor data starts at a multiple of 8 bytes. On error the file may be
// left half written. INVALID_ARGUMENT: two tensors of one name, or a shape that does not match
// `bytes`. RESOURCE_EXHAUSTED: the disk is full.
absl::StatusOr<FileDigest> WriteSafetensors(const std::string& path,
                                            absl::Span<const TensorView> tensors,
                                            const std::map<std::string, std::string>& metadata);

// The same with every tensor converted to `dtype` (F32, F16 or BF16), all held in memory meanwhile.
absl::StatusOr<FileDigest> WriteSafetensorsAs(const std::string& path,
                                              absl::Span<const TensorView> tensors, DType dtype,
                                              const std::map<std::string, std::string>& metadata);

}  // namespace mindforge
