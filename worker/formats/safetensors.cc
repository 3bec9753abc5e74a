#include "worker/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/json_parse.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the format's own library
constexpr size_t kPrefixBytes = 8;

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  int bytes;
};

constexpr std::array kDTypes = {
    DTypeInfo{DType::kBool, "BOOL", 1},      DTypeInfo{DType::kU8, "U8", 1},
    DTypeInfo{DType::kI8, "I8", 1},          DTypeInfo{DType::kF8E4M3, "F8_E4M3", 1},
    DTypeInfo{DType::kF8E5M2, "F8_E5M2", 1}, DTypeInfo{DType::kI16, "I16", 2},
    DTypeInfo{DType::kU16, "U16", 2},        DTypeInfo{DType::kF16, "F16", 2},
    DTypeInfo{DType::kBF16, "BF16", 2},      DTypeInfo{DType::kI32, "I32", 4},
    DTypeInfo{DType::kU32, "U32", 4},        DTypeInfo{DType::kF32, "F32", 4},
    DTypeInfo{DType::kI64, "I64", 8},        DTypeInfo{DType::kU64, "U64", 8},
    DTypeInfo{DType::kF64, "F64", 8},        DTypeInfo{DType::kC64, "C64", 8},
    DTypeInfo{DType::kC128, "C128", 16},
};

const DTypeInfo& InfoOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

// A tensor's entry of the header, checked for types. `begin` and `end` are offsets in the data.
struct Entry {
  TensorView view;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::Status BadTensor(const std::string& name, const std::string& what) {
  return absl::DataLossError(absl::StrCat("tensor \"", name, "\": ", what));
}

absl::StatusOr<Entry> ParseEntry(const std::string& name, const Json& json) {
  if (!json.is_object()) return BadTensor(name, "its header entry is no object");
  const auto dtype = json.find("dtype");
  const auto shape = json.find("shape");
  const auto offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string()) return BadTensor(name, "it has no dtype");
  if (shape == json.end() || !shape->is_array()) return BadTensor(name, "it has no shape");
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return BadTensor(name, "data_offsets must be two offsets");
  }
  Entry entry;
  entry.view.name = name;
  const absl::StatusOr<DType> parsed = ParseDType(dtype->get_ref<const std::string&>());
  if (!parsed.ok()) return BadTensor(name, std::string(parsed.status().message()));
  entry.view.dtype = *parsed;
  for (const Json& dimension : *shape) {
    if (!dimension.is_number_unsigned() ||
        dimension.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      return BadTensor(name, "its shape holds what is no size");
    }
    entry.view.shape.push_back(dimension.get<int64_t>());
  }
  entry.begin = (*offsets)[0].get<uint64_t>();
  entry.end = (*offsets)[1].get<uint64_t>();
  return entry;
}

// Every tensor lies inside the data, is as long as its shape says, and they cover the data without
// gap or overlap.
absl::Status CheckLayout(std::vector<Entry>* entries, uint64_t data_bytes) {
  std::sort(entries->begin(), entries->end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (Entry& entry : *entries) {
    const std::string& name = entry.view.name;
    if (entry.end < entry.begin || entry.end > data_bytes) {
      return BadTensor(name, absl::StrCat("its bytes ", entry.begin, " to ", entry.end,
                                          " are not inside the file's ", data_bytes,
                                          " bytes of data; was the file cut off?"));
    }
    if (entry.begin != covered) {
      return BadTensor(name, absl::StrCat("it begins at byte ", entry.begin,
                                          ", the one before ends at ", covered));
    }
    const int64_t elements = ElementCount(entry.view.shape);
    const auto width = static_cast<uint64_t>(DTypeBytes(entry.view.dtype));
    if (elements < 0 || static_cast<uint64_t>(elements) > data_bytes ||
        static_cast<uint64_t>(elements) * width != entry.end - entry.begin) {
      return BadTensor(name, absl::StrCat("shape ", ShapeToString(entry.view.shape), " of ",
                                          std::string(DTypeName(entry.view.dtype)),
                                          " does not fit ", entry.end - entry.begin, " bytes"));
    }
    entry.view.bytes = static_cast<int64_t>(entry.end - entry.begin);
    covered = entry.end;
  }
  if (covered != data_bytes) {
    return absl::DataLossError(
        absl::StrCat("the tensors end at byte ", covered, " of ", data_bytes, " bytes of data"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view DTypeName(DType dtype) { return InfoOf(dtype).name; }
int64_t DTypeBytes(DType dtype) { return InfoOf(dtype).bytes; }

absl::StatusOr<DType> ParseDType(std::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown dtype \"", std::string(name), "\""));
}

std::string ShapeToString(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

int64_t ElementCount(absl::Span<const int64_t> shape) {
  int64_t count = 1;
  bool overflow = false;
  bool zero = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return -1;
    zero |= dimension == 0;
    overflow |= __builtin_mul_overflow(count, dimension, &count);
  }
  if (zero) return 0;
  return overflow ? -1 : count;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  ASSIGN_OR_RETURN(file->file_, MappedFile::Open(path));
  RETURN_IF_ERROR(file->Parse()) << path;
  return file;
}

absl::Status SafetensorsFile::Parse() {
  const std::string_view bytes = file_->bytes();
  if (bytes.size() < kPrefixBytes) {
    return absl::DataLossError(
        absl::StrCat(bytes.size(), " bytes are too few for a safetensors file"));
  }
  uint64_t header_bytes = 0;  // little-endian, as every machine we run on
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const uint64_t rest = bytes.size() - kPrefixBytes;
  if (header_bytes > kMaxHeaderBytes || header_bytes > rest) {
    return absl::DataLossError(absl::StrCat("the header claims ", header_bytes,
                                            " bytes, the file has ", bytes.size(),
                                            "; was it cut off?"));
  }
  return ParseHeader(bytes.substr(kPrefixBytes, header_bytes), rest - header_bytes);
}

absl::Status SafetensorsFile::ParseHeader(std::string_view header, uint64_t data_bytes) {
  const absl::StatusOr<Json> json = ParseJson(header, "header");
  if (!json.ok()) return absl::DataLossError(json.status().message());
  if (!json->is_object()) return absl::DataLossError("the header is no object");
  std::vector<Entry> entries;
  for (const auto& [name, value] : json->items()) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) return absl::DataLossError("__metadata__ must hold strings only");
        metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    ASSIGN_OR_RETURN(Entry entry, ParseEntry(name, value));
    entries.push_back(std::move(entry));
  }
  RETURN_IF_ERROR(CheckLayout(&entries, data_bytes));
  const char* const data = header.data() + header.size();
  for (Entry& entry : entries) {
    entry.view.data = data + entry.begin;
    index_.emplace(entry.view.name, tensors_.size());
    tensors_.push_back(std::move(entry.view));
  }
  return absl::OkStatus();
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace mindforge
