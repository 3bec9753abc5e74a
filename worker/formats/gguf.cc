// The reader; gguf_writer.cc holds the writer.
#include "worker/formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr uint32_t kOldestVersion = 2;  // the first with 64-bit lengths
constexpr uint32_t kNewestVersion = 3;
constexpr uint64_t kMaxKeys = 65'536;
constexpr uint64_t kMaxTensors = 1'000'000;
constexpr uint64_t kMaxArray = 4'000'000;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

std::optional<DType> DTypeOfGguf(uint32_t type) {
  switch (type) {
    case 0:
      return DType::kF32;
    case 1:
      return DType::kF16;
    case 30:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

absl::Status CutOff() { return absl::DataLossError("the GGUF header is cut off"); }

// Takes values from the front of a header.
class Cursor {
 public:
  explicit Cursor(std::string_view bytes) : rest_(bytes), all_(bytes.size()) {}

  template <typename T>
  absl::StatusOr<T> Take() {
    if (rest_.size() < sizeof(T)) return CutOff();
    T value;
    std::memcpy(&value, rest_.data(), sizeof(value));  // little-endian
    rest_.remove_prefix(sizeof(T));
    return value;
  }

  absl::StatusOr<std::string> TakeText() {
    ASSIGN_OR_RETURN(const uint64_t length, Take<uint64_t>());
    if (length > rest_.size()) return CutOff();
    std::string text(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return text;
  }

  template <typename T>
  absl::StatusOr<Json> TakeNumber() {
    ASSIGN_OR_RETURN(const T value, Take<T>());
    return Json(value);
  }

  absl::StatusOr<Json> TakeScalar(uint32_t type) {
    switch (type) {
      case kUint8:
        return TakeNumber<uint8_t>();
      case kInt8:
        return TakeNumber<int8_t>();
      case kUint16:
        return TakeNumber<uint16_t>();
      case kInt16:
        return TakeNumber<int16_t>();
      case kUint32:
        return TakeNumber<uint32_t>();
      case kInt32:
        return TakeNumber<int32_t>();
      case kFloat32:
        return TakeNumber<float>();
      case kUint64:
        return TakeNumber<uint64_t>();
      case kInt64:
        return TakeNumber<int64_t>();
      case kFloat64:
        return TakeNumber<double>();
      case kBool: {
        ASSIGN_OR_RETURN(const uint8_t value, Take<uint8_t>());
        return Json(value != 0);
      }
      case kString: {
        ASSIGN_OR_RETURN(std::string text, TakeText());
        return Json(std::move(text));
      }
      default:
        return absl::DataLossError(absl::StrCat("metadata of unknown type ", type));
    }
  }

  absl::StatusOr<Json> TakeValue() {
    ASSIGN_OR_RETURN(const uint32_t type, Take<uint32_t>());
    if (type != kArray) return TakeScalar(type);
    ASSIGN_OR_RETURN(const uint32_t item_type, Take<uint32_t>());
    ASSIGN_OR_RETURN(const uint64_t count, Take<uint64_t>());
    if (count > rest_.size() || count > kMaxArray) {  // an item is a byte at least
      return absl::DataLossError(absl::StrCat("an array of metadata claims ", count, " items"));
    }
    Json::array_t items;
    items.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(Json item, TakeScalar(item_type));
      items.push_back(std::move(item));
    }
    return Json(std::move(items));
  }

  uint64_t position() const { return all_ - rest_.size(); }

 private:
  std::string_view rest_;
  const size_t all_;
};

// A tensor's entry, its data still an offset.
struct Entry {
  TensorView view;
  uint64_t offset = 0;
};

absl::StatusOr<Entry> TakeEntry(Cursor* cursor) {
  Entry entry;
  ASSIGN_OR_RETURN(entry.view.name, cursor->TakeText());
  ASSIGN_OR_RETURN(const uint32_t dimensions, cursor->Take<uint32_t>());
  if (dimensions > kMaxDimensions) {
    return absl::DataLossError(
        absl::StrCat("tensor \"", entry.view.name, "\" has ", dimensions, " dimensions"));
  }
  for (uint32_t i = 0; i < dimensions; ++i) {
    ASSIGN_OR_RETURN(const uint64_t size, cursor->Take<uint64_t>());
    if (size > static_cast<uint64_t>(INT64_MAX)) {
      return absl::DataLossError(absl::StrCat("tensor \"", entry.view.name, "\" has no size"));
    }
    entry.view.shape.insert(entry.view.shape.begin(), static_cast<int64_t>(size));
  }
  ASSIGN_OR_RETURN(const uint32_t type, cursor->Take<uint32_t>());
  ASSIGN_OR_RETURN(entry.offset, cursor->Take<uint64_t>());
  const std::optional<DType> dtype = DTypeOfGguf(type);
  if (!dtype.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", entry.view.name, "\" is of GGML type ", type,
                     ", which is quantized or not known; only F32, F16 and BF16 files are read. "
                     "Take the model in one of those"));
  }
  entry.view.dtype = *dtype;
  return entry;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, MappedFile::Open(path));
  std::unique_ptr<GgufFile> file(new GgufFile(std::move(mapped)));
  RETURN_IF_ERROR(file->Parse()) << path;
  return file;
}

absl::Status GgufFile::Parse() {
  const std::string_view bytes = file_->bytes();
  if (!bytes.starts_with("GGUF")) return absl::DataLossError("not a GGUF file");
  Cursor cursor(bytes);
  RETURN_IF_ERROR(cursor.Take<uint32_t>());
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Take<uint32_t>());
  if (version < kOldestVersion || version > kNewestVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF version ", version, " is not read; 2 and 3 are"));
  }
  ASSIGN_OR_RETURN(const uint64_t tensors, cursor.Take<uint64_t>());
  ASSIGN_OR_RETURN(const uint64_t keys, cursor.Take<uint64_t>());
  if (tensors > kMaxTensors || keys > kMaxKeys) {
    return absl::DataLossError(
        absl::StrCat("the header claims ", tensors, " tensors and ", keys, " keys"));
  }
  for (uint64_t i = 0; i < keys; ++i) {
    ASSIGN_OR_RETURN(const std::string key, cursor.TakeText());
    ASSIGN_OR_RETURN(metadata_[key], cursor.TakeValue());
  }
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensors; ++i) {
    ASSIGN_OR_RETURN(Entry entry, TakeEntry(&cursor));
    entries.push_back(std::move(entry));
  }
  uint64_t alignment = kDefaultAlignment;
  if (const auto it = metadata_.find("general.alignment"); it != metadata_.end()) {
    alignment = it->is_number_unsigned() ? it->get<uint64_t>() : 0;
    if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
      return absl::DataLossError("general.alignment is no power of two");
    }
  }
  const uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
  const uint64_t room = start > bytes.size() ? 0 : bytes.size() - start;
  std::set<std::string> names;
  for (Entry& entry : entries) {
    TensorView& view = entry.view;
    const int64_t elements = view.elements();
    if (!names.insert(view.name).second) {
      return absl::DataLossError(absl::StrCat("two tensors are named \"", view.name, "\""));
    }
    if (elements < 0 || static_cast<uint64_t>(elements) > room || entry.offset > room ||
        static_cast<uint64_t>(elements * DTypeBytes(view.dtype)) > room - entry.offset) {
      return absl::DataLossError(absl::StrCat("tensor \"", view.name, "\" of shape ",
                                              ShapeToString(view.shape), " at byte ", entry.offset,
                                              " lies outside the file"));
    }
    if (entry.offset % alignment != 0) {
      return absl::DataLossError(absl::StrCat("tensor \"", view.name, "\" is not aligned"));
    }
    view.bytes = elements * DTypeBytes(view.dtype);
    view.data = bytes.data() + start + entry.offset;
    tensors_.push_back(std::move(view));
  }
  return absl::OkStatus();
}

}  // namespace mindforge
