// The reader; zip_writer.cc holds the writer.
#include "worker/formats/zip_file.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kDirectorySignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr size_t kEnd64Bytes = 56;
constexpr size_t kDirectoryBytes = 46;
constexpr size_t kLocalBytes = 30;
constexpr size_t kMaxComment = 65535;
constexpr uint64_t kMaxEntries = 1'000'000;
constexpr uint16_t kZip64Extra = 1;
constexpr uint32_t kIn64 = 0xFFFFFFFF;
constexpr uint16_t kEncrypted = 1;
constexpr uint16_t kStored = 0;
constexpr uint16_t kDeflated = 8;
constexpr size_t kInflateChunk = size_t{1} << 30;  // zlib counts in 32 bits

template <typename T>
T Get(std::string_view bytes, size_t at) {  // little-endian, as every machine we run on
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

absl::Status Broken(const std::string& what) {
  return absl::DataLossError(absl::StrCat("not a sound ZIP archive: ", what));
}

// What the end of an archive says of its directory.
struct Directory {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t count = 0;
};

absl::StatusOr<Directory> FindDirectory(std::string_view archive) {
  if (archive.size() < kEndBytes) return Broken(absl::StrCat(archive.size(), " bytes are too few"));
  size_t end = archive.size() - kEndBytes;
  const size_t lowest = end > kMaxComment ? end - kMaxComment : 0;
  while (Get<uint32_t>(archive, end) != kEndSignature) {
    if (end == lowest) return Broken("its directory is missing; was it cut off?");
    --end;
  }
  Directory found{Get<uint32_t>(archive, end + 16), Get<uint32_t>(archive, end + 12),
                  Get<uint16_t>(archive, end + 10)};
  const bool has64 = end >= kEnd64LocatorBytes &&
                     Get<uint32_t>(archive, end - kEnd64LocatorBytes) == kEnd64LocatorSignature;
  if (has64) {
    const auto at = Get<uint64_t>(archive, end - kEnd64LocatorBytes + 8);
    if (at > archive.size() || archive.size() - at < kEnd64Bytes ||
        Get<uint32_t>(archive, at) != kEnd64Signature) {
      return Broken("its 64-bit directory is not where it should be");
    }
    found = {Get<uint64_t>(archive, at + 48), Get<uint64_t>(archive, at + 40),
             Get<uint64_t>(archive, at + 32)};
  }
  if (found.offset > archive.size() || found.bytes > archive.size() - found.offset) {
    return Broken("its directory lies outside the file");
  }
  if (found.count > kMaxEntries || found.count * kDirectoryBytes > found.bytes) {
    return Broken(
        absl::StrCat("its directory of ", found.bytes, " bytes claims ", found.count, " entries"));
  }
  return found;
}

// Takes the 64-bit values from an entry's extra field, for those that are marked so.
absl::Status Read64(std::string_view extra, ZipEntry* entry) {
  while (extra.size() >= 4) {
    const auto id = Get<uint16_t>(extra, 0);
    const auto bytes = Get<uint16_t>(extra, 2);
    if (bytes > extra.size() - 4) break;
    std::string_view field = extra.substr(4, bytes);
    extra.remove_prefix(4 + size_t{bytes});
    if (id != kZip64Extra) continue;
    for (uint64_t* value : {&entry->bytes, &entry->stored_bytes, &entry->header_offset}) {
      if (*value != kIn64) continue;
      if (field.size() < sizeof(uint64_t)) return Broken("a 64-bit size is missing");
      *value = Get<uint64_t>(field, 0);
      field.remove_prefix(sizeof(uint64_t));
    }
    break;
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t Crc32(std::string_view bytes, uint32_t so_far) {
  return static_cast<uint32_t>(
      ::crc32_z(so_far, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

absl::StatusOr<ZipArchive> ZipArchive::Parse(std::string_view archive) {
  ASSIGN_OR_RETURN(const Directory directory, FindDirectory(archive));
  ZipArchive parsed(archive);
  RETURN_IF_ERROR(parsed.ReadDirectory(directory.offset, directory.bytes, directory.count));
  return parsed;
}

absl::Status ZipArchive::ReadDirectory(uint64_t offset, uint64_t bytes, uint64_t count) {
  std::string_view rest = archive_.substr(offset, bytes);
  for (uint64_t i = 0; i < count; ++i) {
    if (rest.size() < kDirectoryBytes || Get<uint32_t>(rest, 0) != kDirectorySignature) {
      return Broken(absl::StrCat("entry ", i, " of its directory is cut off"));
    }
    ZipEntry entry;
    const auto flags = Get<uint16_t>(rest, 8);
    const auto method = Get<uint16_t>(rest, 10);
    entry.crc32 = Get<uint32_t>(rest, 16);
    entry.stored_bytes = Get<uint32_t>(rest, 20);
    entry.bytes = Get<uint32_t>(rest, 24);
    const size_t name = Get<uint16_t>(rest, 28);
    const size_t extra = Get<uint16_t>(rest, 30);
    const size_t comment = Get<uint16_t>(rest, 32);
    entry.header_offset = Get<uint32_t>(rest, 42);
    if (rest.size() - kDirectoryBytes < name + extra + comment) {
      return Broken(absl::StrCat("entry ", i, " of its directory is cut off"));
    }
    entry.name = std::string(rest.substr(kDirectoryBytes, name));
    RETURN_IF_ERROR(Read64(rest.substr(kDirectoryBytes + name, extra), &entry));
    rest.remove_prefix(kDirectoryBytes + name + extra + comment);
    if ((flags & kEncrypted) != 0) {
      return absl::InvalidArgumentError(absl::StrCat(entry.name, " is encrypted"));
    }
    if (method != kStored && method != kDeflated) {
      return absl::InvalidArgumentError(absl::StrCat(entry.name, " is compressed by method ",
                                                     method, "; stored and deflate are read"));
    }
    entry.deflated = method == kDeflated;
    if (!entry.deflated && entry.bytes != entry.stored_bytes) {
      return Broken(absl::StrCat(entry.name, " has two sizes"));
    }
    if (!index_.emplace(entry.name, entries_.size()).second) {
      return Broken(absl::StrCat("two entries are named ", entry.name));
    }
    entries_.push_back(std::move(entry));
  }
  return absl::OkStatus();
}

const ZipEntry* ZipArchive::Find(std::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &entries_[it->second];
}

absl::StatusOr<std::string_view> ZipArchive::Stored(const ZipEntry& entry) const {
  const uint64_t at = entry.header_offset;
  if (at > archive_.size() || archive_.size() - at < kLocalBytes ||
      Get<uint32_t>(archive_, at) != kLocalSignature) {
    return Broken(absl::StrCat(entry.name, " is not where the directory says"));
  }
  const uint64_t data =
      at + kLocalBytes + Get<uint16_t>(archive_, at + 26) + Get<uint16_t>(archive_, at + 28);
  if (data > archive_.size() || archive_.size() - data < entry.stored_bytes) {
    return Broken(absl::StrCat(entry.name, " ends outside the file"));
  }
  return archive_.substr(data, entry.stored_bytes);
}

absl::Status ZipArchive::Inflate(const ZipEntry& entry, char* to) const {
  ASSIGN_OR_RETURN(std::string_view from, Stored(entry));
  z_stream stream{};
  if (::inflateInit2(&stream, -MAX_WBITS) != Z_OK) {
    return absl::ResourceExhaustedError("zlib has no memory");
  }
  absl::Cleanup end = [&stream] { ::inflateEnd(&stream); };
  uint64_t room = entry.bytes;
  char none = 0;
  if (room == 0) to = &none;  // zlib takes no null
  int result = Z_OK;
  while (result == Z_OK) {
    const size_t in = std::min(from.size(), kInflateChunk);
    const size_t out = std::min<uint64_t>(room, kInflateChunk);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(from.data()));
    stream.avail_in = static_cast<uInt>(in);
    stream.next_out = reinterpret_cast<Bytef*>(to);
    stream.avail_out = static_cast<uInt>(out);
    result = ::inflate(&stream, Z_NO_FLUSH);
    from.remove_prefix(in - stream.avail_in);
    to += out - stream.avail_out;
    room -= out - stream.avail_out;
  }
  if (result != Z_STREAM_END || room != 0) {
    return Broken(absl::StrCat(entry.name, " does not inflate to the ", entry.bytes,
                               " bytes that it claims"));
  }
  return absl::OkStatus();
}

}  // namespace mindforge
