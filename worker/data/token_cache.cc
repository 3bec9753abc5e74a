#include "worker/data/token_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/check.h"
#include "common/durable_file.h"
#include "common/error_details.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "worker/data/cache_builder.h"
#include "worker/data/cache_place.h"
#include "worker/data/data_files.h"
#include "worker/data/line_encoder.h"
#include "worker/data/source_digests.h"
#include "worker/data/token_file.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

constexpr int kAttempts = 3;  // to open what others may replace meanwhile

absl::Status Unsound(const std::string& path, const char* what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

std::string Hex(uint64_t digest) { return absl::StrFormat("%016x", digest); }

absl::Status AnotherDataset(const TokenCacheOptions& options, const std::string& digest) {
  return Error(absl::StatusCode::kFailedPrecondition, kAnotherDataset,
               absl::StrCat(options.paths[0],
                            options.paths.size() == 1 ? "" : " or another of the dataset's files",
                            " has changed since the job began: digest ", digest,
                            ", at first start ", options.expected_digest));
}

struct Sources {
  std::vector<DataFile> files;
  uint64_t digest = 0;
};

absl::StatusOr<Sources> WithDigest(const TokenCacheOptions& options,
                                   absl::StatusOr<std::vector<DataFile>> files) {
  RETURN_IF_ERROR(files.status());
  ASSIGN_OR_RETURN(const uint64_t digest,
                   DigestOfFiles(*files, {.cache_dir = options.cache_dir,
                                          .progress = options.progress,
                                          .settled_after = options.settled_after}));
  return Sources{*std::move(files), digest};
}

bool SameFiles(const std::vector<DataFile>& a, const std::vector<DataFile>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const DataFile& x, const DataFile& y) { return x.path == y.path; });
}

// The dataset's files. One whose digest is known already is what the build that began with it took
// of its folders, which may be other files than this one takes.
absl::StatusOr<Sources> FindSources(const TokenCacheOptions& options) {
  const std::string& expected = options.expected_digest;
  absl::StatusOr<Sources> sources = WithDigest(options, ListDataFiles(options.paths));
  if (expected.empty() || (sources.ok() && Hex(sources->digest) == expected)) return sources;
  auto earlier = ListDataFiles(options.paths, FolderRule::kBeforeGzip);
  if (earlier.ok() && !(sources.ok() && SameFiles(*earlier, sources->files))) {
    ASSIGN_OR_RETURN(Sources before, WithDigest(options, std::move(earlier)));
    if (Hex(before.digest) == expected) {
      MF_LOG(WARNING) << options.paths[0] << ": the dataset began with the " << before.files.size()
                      << " files that an earlier build took of folders, no .gz and each .zst, even "
                         "beside the file that it is a copy of; it stays with these";
      return before;
    }
  }
  RETURN_IF_ERROR(sources.status());
  return AnotherDataset(options, Hex(sources->digest));
}

// Removes the file of this inode: another may have made it anew already.
void RemoveDamaged(const std::string& path, uint64_t inode, const absl::Status& why) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || info.st_ino != inode) return;
  MF_LOG(WARNING) << "the token cache is damaged and made anew: " << why.message();
  ::unlink(path.c_str());
}

// Whether making the file anew may cure what keeps it from being mapped.
bool IsCurable(const absl::Status& status) {
  return status.ok() || absl::IsNotFound(status) || absl::IsDataLoss(status) ||
         absl::IsPermissionDenied(status);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenCache>> TokenCache::Open(const TokenCacheOptions& options,
                                                             const Tokenizer& tokenizer) {
  if (options.cache_dir.empty()) {
    return absl::InvalidArgumentError("no folder for the token cache was given");
  }
  ASSIGN_OR_RETURN(const Sources sources, FindSources(options));
  // The version stands for what makes ids of a file: another one takes none of this one's caches.
  const std::string path = JoinPath(
      options.cache_dir,
      absl::StrCat(Hex(sources.digest), "-", tokenizer.digest(),
                   options.encoder == nullptr ? "" : options.encoder->key(), ".v2.tokens"));
  // One that leaves lines out is not for who refuses them: building says which they are.
  const auto usable = [&](const absl::StatusOr<std::unique_ptr<TokenCache>>& cache) {
    return cache.ok() &&
           (options.malformed == MalformedLines::kSkip || (*cache)->skipped_lines() == 0);
  };
  uint64_t inode = 0;
  absl::StatusOr<std::unique_ptr<TokenCache>> cache = Map(path, &inode);
  if (usable(cache)) return cache;
  if (const absl::Status made = MakeDirs(options.cache_dir); !made.ok()) return OfCacheDir(made);
  const absl::StatusOr<UniqueFd> lock = TakeCacheLock(path + ".lock", options.progress);
  if (!lock.ok()) return OfCacheDir(lock.status());
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    cache = Map(path, &inode);
    if (usable(cache)) return cache;
    if (!IsCurable(cache.status())) return OfCacheDir(cache.status());
    if (absl::IsDataLoss(cache.status())) RemoveDamaged(path, inode, cache.status());
    if (lock->valid()) RemoveLeftovers(path);
    RETURN_IF_ERROR(BuildTokenFile(options, sources.files, tokenizer, sources.digest, path));
    cache = Map(path, &inode);
    if (usable(cache)) return cache;
  }
  return OfCacheDir(absl::UnavailableError(
      absl::StrCat(path, " was made ", kAttempts,
                   " times and cannot be read back: ", std::string(cache.status().message()))));
}

absl::StatusOr<std::unique_ptr<TokenCache>> TokenCache::Map(const std::string& path,
                                                            uint64_t* inode) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot open", path);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "cannot stat", path);
  *inode = info.st_ino;
  const auto size = static_cast<size_t>(info.st_size);
  if (size < sizeof(TokenFileHeader)) return Unsound(path, "it is too short");
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapped == MAP_FAILED) return ErrnoStatus(errno, "cannot map", path);
  std::unique_ptr<TokenCache> cache(new TokenCache());
  cache->path_ = path;
  cache->inode_ = info.st_ino;
  cache->mapped_ = static_cast<const char*>(mapped);
  cache->mapped_bytes_ = size;
  RETURN_IF_ERROR(cache->TakeHeader());
  return cache;
}

absl::Status TokenCache::TakeHeader() {
  TokenFileHeader header;
  std::memcpy(&header, mapped_, sizeof(header));
  const TokenFileHeader expected;
  if (std::memcmp(header.magic, expected.magic, sizeof(header.magic)) != 0 ||
      header.header_digest != DigestOf(header)) {
    return Unsound(path_, "its header is damaged");
  }
  payload_bytes_ = PayloadBytes(header);
  const uint64_t blocks = Blocks(header);
  const uint64_t tail_bytes = blocks * sizeof(uint64_t) + header.notes_bytes;
  if (mapped_bytes_ != sizeof(header) + payload_bytes_ + tail_bytes) {
    return Unsound(path_, "it has another length than its header says");
  }
  ids_ = mapped_ + sizeof(header);
  block_digests_ = ids_ + payload_bytes_;
  if (header.tail_digest != XXH3_64bits(block_digests_, tail_bytes)) {
    return Unsound(path_, "the digests of its blocks are damaged");
  }
  notes_.assign(block_digests_ + blocks * sizeof(uint64_t), header.notes_bytes);
  dataset_digest_ = Hex(header.dataset_digest);
  documents_ = static_cast<int64_t>(header.documents);
  tokens_ = static_cast<int64_t>(header.tokens);
  skipped_lines_ = header.skipped_lines;
  id_bytes_ = static_cast<int>(header.id_bytes);
  offsets_ = reinterpret_cast<const uint64_t*>(ids_ + IdsBytes(header));
  blocks_ = std::make_unique<std::atomic<BlockState>[]>(blocks);
  // Offsets are a small part, and everything follows them: nothing is derived from unchecked ones.
  Check(IdsBytes(header), payload_bytes_);
  return damaged_ ? Unsound(path_, "its offsets are damaged") : absl::OkStatus();
}

bool TokenCache::IsSound(uint64_t block) const {
  uint64_t expected = 0;
  std::memcpy(&expected, block_digests_ + block * sizeof(expected), sizeof(expected));
  const uint64_t begin = block * TokenFileHeader::kBlockBytes;
  const uint64_t bytes = std::min(TokenFileHeader::kBlockBytes, payload_bytes_ - begin);
  return XXH3_64bits(ids_ + begin, bytes) == expected;
}

void TokenCache::Check(uint64_t begin, uint64_t end) const {
  if (begin == end) return;
  const uint64_t last = (end - 1) / TokenFileHeader::kBlockBytes;
  for (uint64_t block = begin / TokenFileHeader::kBlockBytes; block <= last; ++block) {
    if (blocks_[block].load(std::memory_order_relaxed) == BlockState::kSound) continue;
    if (IsSound(block)) {
      blocks_[block].store(BlockState::kSound, std::memory_order_relaxed);
      continue;
    }
    damaged_block_ = block;
    if (damaged_.exchange(true)) continue;
    RemoveDamaged(path_, inode_, Unsound(path_, "one of its blocks is"));
  }
}

absl::Status TokenCache::status() const {
  if (!damaged_) return absl::OkStatus();
  const uint64_t at = sizeof(TokenFileHeader) + damaged_block_ * TokenFileHeader::kBlockBytes;
  return absl::DataLossError(absl::StrCat("the token cache ", path_,
                                          " is damaged in the block at byte ", at,
                                          "; it was removed and is made anew at the next start"));
}

TokenCache::~TokenCache() {
  if (mapped_ != nullptr) ::munmap(const_cast<char*>(mapped_), mapped_bytes_);
}

void TokenCache::CopyIds(int64_t document, int64_t begin, absl::Span<int64_t> out) const {
  MF_CHECK(document >= 0 && document < documents_) << document;
  MF_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= DocumentLength(document))
      << begin << " + " << out.size() << " of " << DocumentLength(document);
  const auto first = static_cast<size_t>(DocumentOffset(document) + begin);
  Check(first * id_bytes_, (first + out.size()) * id_bytes_);
  if (id_bytes_ == 2) {
    const auto* const ids = reinterpret_cast<const uint16_t*>(ids_) + first;
    std::copy_n(ids, out.size(), out.begin());
  } else {
    const auto* const ids = reinterpret_cast<const int32_t*>(ids_) + first;
    std::copy_n(ids, out.size(), out.begin());
  }
}

}  // namespace mindforge
