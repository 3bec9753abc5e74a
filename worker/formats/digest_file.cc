#include "worker/formats/digest_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "worker/formats/checkpoint_names.h"

namespace mindforge {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;  // hashed while still in the cache, then written

}  // namespace

DigestFile::DigestFile(std::string path, UniqueFd fd)
    : path_(std::move(path)), fd_(std::move(fd)), hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_);
}

DigestFile::~DigestFile() { XXH3_freeState(hash_); }

absl::StatusOr<std::unique_ptr<DigestFile>> DigestFile::Create(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot create", path);
  return std::unique_ptr<DigestFile>(new DigestFile(path, std::move(fd)));
}

absl::Status DigestFile::Append(const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t chunk = std::min(bytes, kChunkBytes);
    XXH3_64bits_update(hash_, from, chunk);
    for (size_t done = 0; done < chunk;) {
      const ssize_t wrote = ::write(fd_.get(), from + done, chunk - done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return ErrnoStatus(errno, "cannot write", path_);
      done += static_cast<size_t>(wrote);
    }
    from += chunk;
    bytes -= chunk;
    bytes_ += static_cast<int64_t>(chunk);
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDigest> DigestFile::Finish() {
  if (::fsync(fd_.get()) != 0) return ErrnoStatus(errno, "cannot sync", path_);
  if (::close(fd_.Release()) != 0) return ErrnoStatus(errno, "cannot close", path_);
  return FileDigest{bytes_, XXH3_64bits_digest(hash_)};
}

absl::StatusOr<FileDigest> WriteFileOf(const std::string& folder, const std::string& name,
                                       std::string_view text) {
  const std::string path = JoinPath(folder, name);
  const bool nested = name.find('/') != std::string::npos;
  if (nested) RETURN_IF_ERROR(MakeDirs(ParentOf(path)));
  ASSIGN_OR_RETURN(const std::unique_ptr<DigestFile> file, DigestFile::Create(path));
  RETURN_IF_ERROR(file->Append(text));
  ASSIGN_OR_RETURN(const FileDigest digest, file->Finish());
  if (nested) RETURN_IF_ERROR(SyncDir(ParentOf(path)));
  return digest;
}

absl::StatusOr<FileDigest> DigestOfFile(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(),
                                                                      XXH3_freeState);
  XXH3_64bits_reset(hash.get());
  std::vector<char> buffer(kChunkBytes);
  int64_t bytes = 0;
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ReadErrnoStatus(errno, path);
    if (got == 0) break;
    XXH3_64bits_update(hash.get(), buffer.data(), static_cast<size_t>(got));
    bytes += got;
  }
  return FileDigest{bytes, XXH3_64bits_digest(hash.get())};
}

std::string HexDigest(uint64_t digest) { return absl::StrFormat("%016x", digest); }

}  // namespace mindforge
