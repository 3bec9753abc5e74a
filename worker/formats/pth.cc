// The reader; pth_writer.cc holds the writer, state_dict.cc what a document says of a model.
#include "worker/formats/pth.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/pth_names.h"

namespace mindforge {
namespace {

using Kind = PickleValue::Kind;

constexpr uint64_t kMaxPickleBytes = uint64_t{64} << 20;
constexpr size_t kMaxDimensions = 16;
// Of buffers for what is compressed or not in row-major order. torch.save compresses nothing, and
// weights hardly compress: more is no model but a bomb.
constexpr uint64_t kFreeAllocation = uint64_t{64} << 20;
constexpr uint64_t kMaxExpansion = 8;

absl::Status BadTensor(const std::string& what) {
  return absl::DataLossError(absl::StrCat("a tensor of the pickle ", what));
}

// Sizes or strides.
absl::StatusOr<std::vector<int64_t>> Integers(const PickleValue& value, const char* what) {
  if (value.kind != Kind::kTuple && value.kind != Kind::kList) {
    return BadTensor(absl::StrCat("has as ", what, " ", std::string(value.KindName())));
  }
  if (value.items.size() > kMaxDimensions) {
    return BadTensor(absl::StrCat("has ", value.items.size(), " dimensions"));
  }
  std::vector<int64_t> integers;
  for (const PickleValue* item : value.items) {
    if (item->kind != Kind::kInt || item->integer < 0) {
      return BadTensor(absl::StrCat("has a ", what, " that is no size"));
    }
    integers.push_back(item->integer);
  }
  return integers;
}

bool IsRowMajor(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

// One more than the index of the last element; -1 when it does not fit. REQUIRES: no empty shape.
int64_t Extent(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  int64_t last = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    int64_t span = 0;
    if (__builtin_mul_overflow(shape[i] - 1, strides[i], &span) ||
        __builtin_add_overflow(last, span, &last)) {
      return -1;
    }
  }
  return __builtin_add_overflow(last, 1, &last) ? -1 : last;
}

// What a persistent id says: ("storage", type, key, device, elements).
struct StorageId {
  std::optional<DType> dtype;  // unset: untyped, the tensor says
  std::string key;
  int64_t elements = 0;  // bytes when untyped
};

absl::StatusOr<StorageId> ParseStorage(const PickleValue& value) {
  if (value.kind != Kind::kPersistent || value.items[0]->kind != Kind::kTuple) {
    return BadTensor("has no storage");
  }
  const std::vector<const PickleValue*>& id = value.items[0]->items;
  if (id.size() != 5 || id[0]->kind != Kind::kText || id[0]->text != "storage" ||
      id[1]->kind != Kind::kGlobal || id[2]->kind != Kind::kText || id[4]->kind != Kind::kInt ||
      id[4]->integer < 0) {
    return BadTensor("has a storage whose id is not as torch.save writes it");
  }
  StorageId storage{.key = std::string(id[2]->text), .elements = id[4]->integer};
  if (id[1]->text != kUntypedStorage) {
    storage.dtype = DTypeOfStorage(id[1]->text);
    if (!storage.dtype.has_value()) {
      return BadTensor(absl::StrCat("has a storage of ", std::string(id[1]->text)));
    }
  }
  return storage;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PthFile>> PthFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, MappedFile::Open(path));
  std::unique_ptr<PthFile> file(new PthFile(std::move(mapped)));
  RETURN_IF_ERROR(file->Parse()) << path;
  return file;
}

absl::Status PthFile::Parse() {
  const std::string_view bytes = file_->bytes();
  if (bytes.starts_with("\x80\x02\x8a\x0a")) {
    return absl::InvalidArgumentError(
        "written in the format of PyTorch before 1.6; open it with PyTorch once and save it again");
  }
  ASSIGN_OR_RETURN(ZipArchive archive, ZipArchive::Parse(bytes));
  archive_ = std::make_unique<ZipArchive>(std::move(archive));
  const ZipEntry* pickle = nullptr;
  for (const ZipEntry& entry : archive_->entries()) {
    const size_t slash = entry.name.find('/');
    if (slash == std::string::npos || entry.name.substr(slash + 1) != "data.pkl") continue;
    if (pickle != nullptr) return absl::DataLossError("the archive holds two data.pkl");
    pickle = &entry;
    prefix_ = entry.name.substr(0, slash + 1);
  }
  if (pickle == nullptr) {
    return absl::InvalidArgumentError("the archive holds no data.pkl: torch.save did not write it");
  }
  if (pickle->bytes > kMaxPickleBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "data.pkl claims ", pickle->bytes, " bytes, at most ", kMaxPickleBytes, " are read"));
  }
  RETURN_IF_ERROR(CheckByteOrder());
  ASSIGN_OR_RETURN(const std::string_view text, Content(*pickle));
  ASSIGN_OR_RETURN(document_, PickleDocument::Parse(text, KnownPthGlobals()));
  return ResolveTensors(root());
}

absl::Status PthFile::CheckByteOrder() const {
  const ZipEntry* const entry = archive_->Find(prefix_ + "byteorder");
  if (entry == nullptr || entry->deflated) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string_view order, archive_->Stored(*entry));
  if (order == "little") return absl::OkStatus();
  return absl::InvalidArgumentError(
      "its tensors are big-endian; save it on a little-endian machine");
}

const TensorView* PthFile::TensorOf(const PickleValue& value) const {
  const auto it = tensors_.find(&value);
  return it == tensors_.end() ? nullptr : &it->second;
}

// Visits shared values once; their depth was checked by the pickle's reader.
absl::Status PthFile::ResolveTensors(const PickleValue& value) {
  std::vector<const PickleValue*> todo = {&value};
  std::unordered_map<const PickleValue*, bool> seen;
  while (!todo.empty()) {
    const PickleValue* const next = todo.back();
    todo.pop_back();
    if (next->items.empty() || !seen.emplace(next, true).second) continue;
    if (next->kind == Kind::kCall && IsTensorCall(next->items[0]->text)) {
      ASSIGN_OR_RETURN(tensors_[next], Resolve(*next));
      continue;
    }
    todo.insert(todo.end(), next->items.begin(), next->items.end());
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorView> PthFile::Resolve(const PickleValue& call) {
  const std::vector<const PickleValue*>& items = call.items;  // the function, then its arguments
  if (items[0]->text == kRebuildParameter) {
    if (items.size() < 2 || items[1]->kind != Kind::kCall ||
        items[1]->items[0]->text == kRebuildParameter || !IsTensorCall(items[1]->items[0]->text)) {
      return BadTensor("is a parameter of no tensor");
    }
    return Resolve(*items[1]);
  }
  if (items.size() < 5) return BadTensor("is made of too few things");
  ASSIGN_OR_RETURN(const StorageId id, ParseStorage(*items[1]));
  TensorView view;
  if (items[0]->text == kRebuildTensorV3) {
    const bool named = items.size() >= 8 && items[7]->kind == Kind::kGlobal;
    const std::optional<DType> dtype = named ? DTypeOfName(items[7]->text) : std::nullopt;
    if (!dtype.has_value()) return BadTensor("has a dtype that is not read");
    view.dtype = *dtype;
  } else if (id.dtype.has_value()) {
    view.dtype = *id.dtype;
  } else {
    return BadTensor("has a storage without a dtype");
  }
  const int64_t width = DTypeBytes(view.dtype);
  ASSIGN_OR_RETURN(view.shape, Integers(*items[3], "shape"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> strides, Integers(*items[4], "strides"));
  ASSIGN_OR_RETURN(const std::string_view storage, Storage(id.key));
  const auto room = static_cast<int64_t>(storage.size()) / width;
  const int64_t claimed = id.dtype.has_value() ? id.elements : id.elements / width;
  const int64_t elements = view.elements();
  const std::string described =
      absl::StrCat("of shape ", ShapeToString(view.shape), " and strides ", ShapeToString(strides),
                   " in storage ", id.key, " of ", room, " elements ");
  if (claimed > room) {
    return BadTensor(absl::StrCat(described, "claims a storage of ", claimed, " elements"));
  }
  if (strides.size() != view.shape.size() || items[2]->kind != Kind::kInt ||
      items[2]->integer < 0 || items[2]->integer > room) {
    return BadTensor(absl::StrCat(described, "does not begin inside it"));
  }
  if (elements < 0 || elements > room) {
    return BadTensor(absl::StrCat(described, "is larger than it"));
  }
  view.bytes = elements * width;
  if (elements == 0) return view;
  const int64_t extent = Extent(view.shape, strides);
  if (extent < 0 || extent > room - items[2]->integer) {
    return BadTensor(absl::StrCat(described, "reaches outside it"));
  }
  ASSIGN_OR_RETURN(view.data,
                   InRowMajorOrder(view, storage.substr(items[2]->integer * width), strides));
  return view;
}

absl::StatusOr<std::string_view> PthFile::Storage(const std::string& key) {
  const auto it = storages_.find(key);
  if (it != storages_.end()) return it->second;
  const ZipEntry* const entry = archive_->Find(absl::StrCat(prefix_, "data/", key));
  if (entry == nullptr) {
    return absl::DataLossError(
        absl::StrCat("the archive has no storage data/", key.substr(0, 100)));
  }
  ASSIGN_OR_RETURN(const std::string_view content, Content(*entry));
  storages_.emplace(key, content);
  return content;
}

absl::StatusOr<std::string_view> PthFile::Content(const ZipEntry& entry) {
  std::string_view content;
  if (entry.deflated) {
    ASSIGN_OR_RETURN(char* const buffer, Allocate(entry.bytes));
    RETURN_IF_ERROR(archive_->Inflate(entry, buffer));
    content = {buffer, entry.bytes};
  } else {
    ASSIGN_OR_RETURN(content, archive_->Stored(entry));
  }
  if (Crc32(content) != entry.crc32) {
    return absl::DataLossError(
        absl::StrCat(entry.name, " is damaged: its bytes have another CRC-32 than when written"));
  }
  return content;
}

absl::StatusOr<char*> PthFile::Allocate(uint64_t bytes) {
  const uint64_t most = std::max(kFreeAllocation, kMaxExpansion * file_->bytes().size());
  if (bytes > most || allocated_ > most - bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("it unpacks to more than ", most, " bytes, far more than a file of ",
                     file_->bytes().size(), " bytes holds of a model"));
  }
  allocated_ += bytes;
  buffers_.push_back(std::make_unique_for_overwrite<char[]>(bytes));
  return buffers_.back().get();
}

absl::StatusOr<const void*> PthFile::InRowMajorOrder(const TensorView& view,
                                                     std::string_view storage,
                                                     const std::vector<int64_t>& strides) {
  const auto width = static_cast<size_t>(DTypeBytes(view.dtype));
  const bool aligned = reinterpret_cast<uintptr_t>(storage.data()) % width == 0;
  const bool row_major = IsRowMajor(view.shape, strides);
  if (aligned && row_major) return storage.data();
  ASSIGN_OR_RETURN(char* const buffer, Allocate(static_cast<uint64_t>(view.bytes)));
  if (row_major) {
    std::memcpy(buffer, storage.data(), static_cast<size_t>(view.bytes));
    return buffer;
  }
  std::vector<int64_t> index(view.shape.size(), 0);
  int64_t from = 0;  // element
  for (int64_t to = 0; to < view.elements(); ++to) {
    std::memcpy(buffer + to * width, storage.data() + from * width, width);
    for (size_t i = index.size(); i-- > 0;) {
      from += strides[i];
      if (++index[i] < view.shape[i]) break;
      from -= strides[i] * view.shape[i];
      index[i] = 0;
    }
  }
  return buffer;
}

}  // namespace mindforge
