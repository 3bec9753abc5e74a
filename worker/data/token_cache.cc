#include "worker/data/token_cache.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/check.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "worker/data/cache_builder.h"
#include "worker/data/data_files.h"
#include "worker/data/line_encoder.h"
#include "worker/data/token_file.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

constexpr int kLockPollMilliseconds = 100;

absl::Status Unsound(const std::string& path, const char* what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// Waits for the builder of this cache, if there is one; its lock goes with its process. An invalid
// descriptor where the file system has no locks.
absl::StatusOr<UniqueFd> TakeLock(const std::string& path, const TokenCacheOptions& options) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot create", path);
  ProgressMeter progress(options.progress, TokenCacheProgress::Phase::kWaiting);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return UniqueFd();
    progress.Advance(0);
    ::poll(nullptr, 0, kLockPollMilliseconds);
  }
  return fd;
}

// Why the cache's folder cannot be used. Only what a restart cannot cure is the user's.
absl::Status NoPlace(const absl::Status& status) {
  const std::string description =
      absl::StrCat(std::string(status.message()),
                   "; token caches need a folder that this worker may write: name one that all "
                   "workers see as data.cache_dir");
  switch (status.code()) {
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
      return InvalidArgument("data.cache_dir", description);
    default:
      return absl::Status(status.code(), description);
  }
}

// What builders that were killed left behind. Only under the lock: nobody else writes then.
void RemoveLeftovers(const std::string& cache_dir, const std::string& name) {
  const absl::StatusOr<std::vector<std::string>> names = ListDir(cache_dir);
  if (!names.ok()) return;
  for (const std::string& other : *names) {
    if (other.starts_with(name + ".tmp-")) ::unlink(JoinPath(cache_dir, other).c_str());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenCache>> TokenCache::Open(const TokenCacheOptions& options,
                                                             const Tokenizer& tokenizer) {
  if (options.cache_dir.empty()) {
    return absl::InvalidArgumentError("no folder for the token cache was given");
  }
  ASSIGN_OR_RETURN(const std::vector<DataFile> files, ListDataFiles(options.paths));
  ProgressMeter reading(options.progress, TokenCacheProgress::Phase::kReading, StoredBytes(files));
  ASSIGN_OR_RETURN(const uint64_t digest, DigestOfFiles(files, reading));
  const std::string name =
      absl::StrFormat("%016x-%s%s.tokens", digest, tokenizer.digest(),
                      options.encoder == nullptr ? "" : options.encoder->key());
  const std::string path = JoinPath(options.cache_dir, name);
  // One that leaves lines out is not for who refuses them: building says which they are.
  const auto usable = [&](const absl::StatusOr<std::unique_ptr<TokenCache>>& cache) {
    return cache.ok() &&
           (options.malformed == MalformedLines::kSkip || (*cache)->skipped_lines() == 0);
  };
  if (absl::StatusOr<std::unique_ptr<TokenCache>> cache = Map(path); usable(cache)) return cache;
  if (const absl::Status made = MakeDirs(options.cache_dir); !made.ok()) return NoPlace(made);
  absl::StatusOr<UniqueFd> lock = TakeLock(path + ".lock", options);
  if (!lock.ok()) return NoPlace(lock.status());
  if (absl::StatusOr<std::unique_ptr<TokenCache>> cache = Map(path); usable(cache)) return cache;
  if (lock->valid()) RemoveLeftovers(options.cache_dir, name);
  RETURN_IF_ERROR(BuildTokenFile(options, files, tokenizer, digest, path));
  return Map(path);
}

absl::StatusOr<std::unique_ptr<TokenCache>> TokenCache::Map(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (size < sizeof(TokenFileHeader)) return Unsound(path, "it is too short");
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapped == MAP_FAILED) return ErrnoStatus(errno, "cannot map", path);
  std::unique_ptr<TokenCache> cache(new TokenCache());
  cache->mapped_ = static_cast<const char*>(mapped);
  cache->mapped_bytes_ = size;
  TokenFileHeader header;
  std::memcpy(&header, mapped, sizeof(header));
  const TokenFileHeader expected;
  if (std::memcmp(header.magic, expected.magic, sizeof(header.magic)) != 0 ||
      header.header_digest != DigestOf(header)) {
    return Unsound(path, "its header is damaged");
  }
  const char* const payload = cache->mapped_ + sizeof(header);
  const size_t payload_bytes = size - sizeof(header);
  if (payload_bytes != IdsBytes(header) + (header.documents + 1) * sizeof(uint64_t) ||
      header.payload_digest != XXH3_64bits(payload, payload_bytes)) {
    return Unsound(path, "its content is damaged");
  }
  cache->dataset_digest_ = absl::StrFormat("%016x", header.dataset_digest);
  cache->documents_ = static_cast<int64_t>(header.documents);
  cache->tokens_ = static_cast<int64_t>(header.tokens);
  cache->skipped_lines_ = header.skipped_lines;
  cache->id_bytes_ = static_cast<int>(header.id_bytes);
  cache->ids_ = payload;
  cache->offsets_ = reinterpret_cast<const uint64_t*>(payload + IdsBytes(header));
  return cache;
}

TokenCache::~TokenCache() {
  if (mapped_ != nullptr) ::munmap(const_cast<char*>(mapped_), mapped_bytes_);
}

void TokenCache::CopyIds(int64_t document, int64_t begin, absl::Span<int64_t> out) const {
  MF_CHECK(document >= 0 && document < documents_) << document;
  MF_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= DocumentLength(document))
      << begin << " + " << out.size() << " of " << DocumentLength(document);
  const auto first = static_cast<size_t>(DocumentOffset(document) + begin);
  if (id_bytes_ == 2) {
    const auto* const ids = reinterpret_cast<const uint16_t*>(ids_) + first;
    std::copy_n(ids, out.size(), out.begin());
  } else {
    const auto* const ids = reinterpret_cast<const int32_t*>(ids_) + first;
    std::copy_n(ids, out.size(), out.begin());
  }
}

}  // namespace mindforge
