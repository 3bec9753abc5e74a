#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/zip_file.h"

namespace mindforge {
namespace {

constexpr uint64_t kIn64 = 0xFFFFFFFF;
constexpr uint16_t kVersion = 45;  // the first with 64-bit sizes
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kPaddingExtra = 0x4246;  // "FB", as PyTorch pads
constexpr uint16_t kDate1980 = 0x21;        // no clock, so that equal content is an equal file
constexpr size_t kAlignment = 64;
constexpr size_t kLocalBytes = 30;
constexpr size_t kExtraHeader = 4;

class Bytes {
 public:
  template <typename T>
  Bytes& Put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Bytes& Put(const std::string& text) {
    text_ += text;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

uint32_t Low(uint64_t value) { return static_cast<uint32_t>(value < kIn64 ? value : kIn64); }

// The extra field with those of `values` that do not fit 32 bits.
std::string Extra64(std::initializer_list<uint64_t> values) {
  Bytes field;
  for (const uint64_t value : values) {
    if (value >= kIn64) field.Put(value);
  }
  if (field.text().empty()) return "";
  return Bytes()
      .Put(kZip64Extra)
      .Put(static_cast<uint16_t>(field.text().size()))
      .Put(field.text())
      .text();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ZipWriter>> ZipWriter::Create(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<DigestFile> file, DigestFile::Create(path));
  return std::unique_ptr<ZipWriter>(new ZipWriter(std::move(file)));
}

absl::Status ZipWriter::Append(std::string_view bytes) {
  RETURN_IF_ERROR(file_->Append(bytes));
  offset_ += bytes.size();
  return absl::OkStatus();
}

absl::Status ZipWriter::Add(const std::string& name, std::string_view content) {
  ZipEntry entry{.name = name,
                 .crc32 = Crc32(content),
                 .stored_bytes = content.size(),
                 .bytes = content.size(),
                 .header_offset = offset_};
  // A local header names both sizes in 64 bits or none.
  std::string extra = Extra64({entry.bytes, entry.stored_bytes});
  const uint64_t unpadded = offset_ + kLocalBytes + name.size() + extra.size() + kExtraHeader;
  const auto padding = static_cast<uint16_t>((kAlignment - unpadded % kAlignment) % kAlignment);
  extra += Bytes().Put(kPaddingExtra).Put(padding).Put(std::string(padding, 'Z')).text();
  Bytes header;
  header.Put(uint32_t{0x04034b50}).Put(kVersion).Put(uint16_t{0}).Put(uint16_t{0});
  header.Put(uint16_t{0}).Put(kDate1980).Put(entry.crc32);
  header.Put(Low(entry.stored_bytes)).Put(Low(entry.bytes));
  header.Put(static_cast<uint16_t>(name.size())).Put(static_cast<uint16_t>(extra.size()));
  header.Put(name).Put(extra);
  RETURN_IF_ERROR(Append(header.text()));
  RETURN_IF_ERROR(Append(content));
  entries_.push_back(std::move(entry));
  return absl::OkStatus();
}

absl::StatusOr<FileDigest> ZipWriter::Finish() {
  const uint64_t directory = offset_;
  for (const ZipEntry& entry : entries_) {
    const std::string extra = Extra64({entry.bytes, entry.stored_bytes, entry.header_offset});
    Bytes header;
    header.Put(uint32_t{0x02014b50}).Put(kVersion).Put(kVersion).Put(uint16_t{0}).Put(uint16_t{0});
    header.Put(uint16_t{0}).Put(kDate1980).Put(entry.crc32);
    header.Put(Low(entry.stored_bytes)).Put(Low(entry.bytes));
    header.Put(static_cast<uint16_t>(entry.name.size())).Put(static_cast<uint16_t>(extra.size()));
    header.Put(uint16_t{0}).Put(uint16_t{0}).Put(uint16_t{0}).Put(uint32_t{0});
    header.Put(Low(entry.header_offset)).Put(entry.name).Put(extra);
    RETURN_IF_ERROR(Append(header.text()));
  }
  const uint64_t bytes = offset_ - directory;
  const uint64_t end64 = offset_;
  const uint64_t count = entries_.size();
  Bytes end;
  end.Put(uint32_t{0x06064b50}).Put(uint64_t{44}).Put(kVersion).Put(kVersion).Put(uint32_t{0});
  end.Put(uint32_t{0}).Put(count).Put(count).Put(bytes).Put(directory);
  end.Put(uint32_t{0x07064b50}).Put(uint32_t{0}).Put(end64).Put(uint32_t{1});
  const auto low_count = static_cast<uint16_t>(count < 0xFFFF ? count : 0xFFFF);
  end.Put(uint32_t{0x06054b50}).Put(uint16_t{0}).Put(uint16_t{0}).Put(low_count).Put(low_count);
  end.Put(Low(bytes)).Put(Low(directory)).Put(uint16_t{0});
  RETURN_IF_ERROR(Append(end.text()));
  return file_->Finish();
}

}  // namespace mindforge
