#include "worker/data/token_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "worker/data/cache_place.h"

namespace mindforge {
namespace {

constexpr size_t kSpoolAt = size_t{1} << 16;  // offsets
constexpr size_t kBootIdBytes = 8;

// What an errno of the cache's folder means to the caller.
absl::Status PlaceError(int error, std::string_view what, const std::string& path) {
  const absl::Status status = ErrnoStatus(error, what, path);
  const bool race = absl::IsNotFound(status) || absl::IsAlreadyExists(status);
  return OfCacheDir(race ? absl::UnavailableError(status.message()) : status);
}

absl::Status WriteAll(int fd, const void* data, size_t bytes, const std::string& path) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t wrote = ::write(fd, from, bytes);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return PlaceError(errno, "cannot write", path);
    from += wrote;
    bytes -= static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

std::string FolderOf(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

// Names the kernel that runs now, whichever container asks: two processes under one kernel see each
// other's locks on a file, others may not. "" when it cannot be told.
std::string BootId() {
  const auto text = ReadFile("/proc/sys/kernel/random/boot_id", 100);
  return text.ok() && text->size() >= kBootIdBytes ? text->substr(0, kBootIdBytes) : "";
}

// Names of this kernel's temporaries begin so.
std::string TemporaryPrefix(const std::string& path, const std::string& boot_id) {
  return absl::StrCat(path, ".tmp-", boot_id, "-");
}

}  // namespace

uint64_t DigestOf(const TokenFileHeader& header) {
  return XXH3_64bits(&header, offsetof(TokenFileHeader, header_digest));
}

uint64_t IdsBytes(const TokenFileHeader& header) {
  return (header.tokens * header.id_bytes + 7) / 8 * 8;
}

uint64_t PayloadBytes(const TokenFileHeader& header) {
  return IdsBytes(header) + (header.documents + 1) * sizeof(uint64_t);
}

uint64_t Blocks(const TokenFileHeader& header) {
  return (PayloadBytes(header) + TokenFileHeader::kBlockBytes - 1) / TokenFileHeader::kBlockBytes;
}

TokenFileWriter::TokenFileWriter(std::string path, std::string temporary, UniqueFd fd,
                                 UniqueFd offsets_fd, uint32_t id_bytes)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      fd_(std::move(fd)),
      offsets_fd_(std::move(offsets_fd)),
      hash_(XXH3_createState()),
      offsets_({0}) {
  header_.id_bytes = id_bytes;
  XXH3_64bits_reset(hash_);
}

TokenFileWriter::~TokenFileWriter() {
  XXH3_freeState(hash_);
  if (!finished_) ::unlink(temporary_.c_str());
}

absl::StatusOr<std::unique_ptr<TokenFileWriter>> TokenFileWriter::Create(const std::string& path,
                                                                         uint32_t id_bytes) {
  std::string temporary = absl::StrCat(TemporaryPrefix(path, BootId()), RandomId());
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return PlaceError(errno, "cannot create", temporary);
  // Where there are no locks nobody looks for one either.
  static_cast<void>(::flock(fd.get(), LOCK_EX | LOCK_NB));
  const std::string spool = absl::StrCat(temporary, "-offsets");
  UniqueFd offsets_fd(::open(spool.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!offsets_fd.valid()) {
    const absl::Status status = PlaceError(errno, "cannot create", spool);
    ::unlink(temporary.c_str());
    return status;
  }
  ::unlink(spool.c_str());
  std::unique_ptr<TokenFileWriter> writer(new TokenFileWriter(
      path, std::move(temporary), std::move(fd), std::move(offsets_fd), id_bytes));
  RETURN_IF_ERROR(
      WriteAll(writer->fd_.get(), &writer->header_, sizeof(TokenFileHeader), writer->temporary_));
  return writer;
}

absl::Status TokenFileWriter::WritePayload(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  for (size_t left = bytes; left > 0;) {
    const size_t part = std::min<size_t>(left, TokenFileHeader::kBlockBytes - block_bytes_);
    XXH3_64bits_update(hash_, from, part);
    block_bytes_ += part;
    from += part;
    left -= part;
    if (block_bytes_ < TokenFileHeader::kBlockBytes) break;
    blocks_.push_back(XXH3_64bits_digest(hash_));
    XXH3_64bits_reset(hash_);
    block_bytes_ = 0;
  }
  return WriteAll(fd_.get(), data, bytes, temporary_);
}

absl::Status TokenFileWriter::Append(absl::Span<const int32_t> ids,
                                     absl::Span<const int64_t> lengths) {
  uint64_t end = header_.tokens;
  for (const int64_t length : lengths) {
    end += static_cast<uint64_t>(length);
    offsets_.push_back(end);
  }
  header_.documents += lengths.size();
  header_.tokens = end;
  if (offsets_.size() >= kSpoolAt) RETURN_IF_ERROR(SpoolOffsets());
  if (header_.id_bytes == sizeof(int32_t)) {
    return WritePayload(ids.data(), ids.size() * sizeof(int32_t));
  }
  narrow_.assign(ids.begin(), ids.end());
  return WritePayload(narrow_.data(), narrow_.size() * sizeof(uint16_t));
}

absl::Status TokenFileWriter::SpoolOffsets() {
  RETURN_IF_ERROR(WriteAll(offsets_fd_.get(), offsets_.data(), offsets_.size() * sizeof(uint64_t),
                           temporary_ + "-offsets"));
  offsets_.clear();
  return absl::OkStatus();
}

absl::Status TokenFileWriter::WriteOffsets() {
  RETURN_IF_ERROR(SpoolOffsets());
  const std::string spool = temporary_ + "-offsets";
  if (::lseek(offsets_fd_.get(), 0, SEEK_SET) != 0) return PlaceError(errno, "cannot seek", spool);
  std::vector<char> block(kSpoolAt * sizeof(uint64_t));
  size_t left = (header_.documents + 1) * sizeof(uint64_t);
  while (left > 0) {
    const ssize_t got = ::read(offsets_fd_.get(), block.data(), std::min(left, block.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return PlaceError(errno, "cannot read", spool);
    if (got == 0) return absl::DataLossError(absl::StrCat(spool, " ends too early"));
    RETURN_IF_ERROR(WritePayload(block.data(), static_cast<size_t>(got)));
    left -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status TokenFileWriter::WriteTail(std::string_view notes) {
  if (block_bytes_ > 0) blocks_.push_back(XXH3_64bits_digest(hash_));
  const size_t bytes = blocks_.size() * sizeof(uint64_t);
  XXH3_64bits_reset(hash_);
  XXH3_64bits_update(hash_, blocks_.data(), bytes);
  XXH3_64bits_update(hash_, notes.data(), notes.size());
  header_.notes_bytes = notes.size();
  header_.tail_digest = XXH3_64bits_digest(hash_);
  RETURN_IF_ERROR(WriteAll(fd_.get(), blocks_.data(), bytes, temporary_));
  return WriteAll(fd_.get(), notes.data(), notes.size(), temporary_);
}

absl::Status TokenFileWriter::Finish(const Facts& facts) {
  const uint64_t padding = IdsBytes(header_) - header_.tokens * header_.id_bytes;
  const uint64_t zero = 0;
  RETURN_IF_ERROR(WritePayload(&zero, padding));
  RETURN_IF_ERROR(WriteOffsets());
  RETURN_IF_ERROR(WriteTail(facts.notes));
  header_.skipped_lines = static_cast<uint32_t>(
      std::min<int64_t>(facts.skipped_lines, std::numeric_limits<uint32_t>::max()));
  header_.dataset_digest = facts.dataset_digest;
  header_.tokenizer_digest = facts.tokenizer_digest;
  header_.header_digest = DigestOf(header_);
  if (::lseek(fd_.get(), 0, SEEK_SET) != 0) return PlaceError(errno, "cannot seek", temporary_);
  RETURN_IF_ERROR(WriteAll(fd_.get(), &header_, sizeof(header_), temporary_));
  if (::fsync(fd_.get()) != 0) return PlaceError(errno, "cannot sync", temporary_);
  return Publish();
}

absl::Status TokenFileWriter::Publish() {
  if (::link(temporary_.c_str(), path_.c_str()) != 0 && errno != EEXIST) {
    // A file system without links, or a temporary that is gone: then this fails as well.
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      return PlaceError(errno, "cannot rename to", path_);
    }
    finished_ = true;
  }
  const absl::Status synced = SyncDir(FolderOf(path_));
  return synced.ok() ? synced : OfCacheDir(synced);
}

void RemoveLeftovers(const std::string& path) {
  const std::string boot_id = BootId();
  const std::string folder = FolderOf(path);
  const auto names = ListDir(folder);
  if (boot_id.empty() || !names.ok()) return;
  for (const std::string& name : *names) {
    const std::string other = JoinPath(folder, name);
    if (!other.starts_with(TemporaryPrefix(path, boot_id))) continue;
    const UniqueFd fd(::open(other.c_str(), O_RDWR | O_CLOEXEC));
    if (fd.valid() && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(other.c_str());
  }
}

}  // namespace mindforge
