#include "worker/data/source_digests.h"

#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/clock.h"
#include "common/durable_file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "worker/data/byte_source.h"
#include "worker/data/cache_place.h"
#include "xxhash.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

constexpr size_t kReadBytes = size_t{1} << 20;
constexpr size_t kMaxRecordBytes = size_t{1} << 30;

std::string Hex(uint64_t digest) { return absl::StrFormat("%016x", digest); }
uint64_t HashOf(const std::string& text) { return XXH3_64bits(text.data(), text.size()); }

struct Known {
  FileIdentity identity;
  uint64_t digest = 0;
};

// What is recorded of a dataset's files, by a hash of the path: a path may be any bytes.
class Record {
 public:
  Record(const std::vector<DataFile>& files, const std::string& cache_dir) {
    std::string paths;
    for (const DataFile& file : files) absl::StrAppend(&paths, file.path, "\n");
    path_ = JoinPath(cache_dir, absl::StrCat("sources-", Hex(HashOf(paths)), ".json"));
  }

  const std::string& path() const { return path_; }

  // Leaves what it knows as it is when there is no sound record.
  void Load() {
    const auto text = ReadFile(path_, kMaxRecordBytes);
    if (!text.ok()) return;
    const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("files") || !json.contains("digest")) return;
    const Json& files = json["files"];
    if (json["digest"] != Hex(HashOf(files.dump()))) return;
    try {
      for (const auto& [key, entry] : files.items()) {
        known_[key] = {.identity = {.bytes = entry.at(0),
                                    .modified_ns = entry.at(1),
                                    .changed_ns = entry.at(2),
                                    .inode = entry.at(3)},
                       .digest = entry.at(4)};
      }
    } catch (const Json::exception&) {
      known_.clear();  // of another form: as if there were none
    }
  }

  std::optional<uint64_t> Find(const DataFile& file) const {
    const auto found = known_.find(KeyOf(file));
    if (found == known_.end() || found->second.identity != file.identity) return std::nullopt;
    return found->second.digest;
  }

  void Set(const DataFile& file, uint64_t digest) { known_[KeyOf(file)] = {file.identity, digest}; }
  void Forget(const DataFile& file) { known_.erase(KeyOf(file)); }

  absl::Status Save() const {
    Json files = Json::object();
    for (const auto& [key, known] : known_) {
      const FileIdentity& is = known.identity;
      files[key] = {is.bytes, is.modified_ns, is.changed_ns, is.inode, known.digest};
    }
    const Json json = {{"digest", Hex(HashOf(files.dump()))}, {"files", std::move(files)}};
    return WriteFileDurably(path_, json.dump());
  }

 private:
  static std::string KeyOf(const DataFile& file) { return Hex(HashOf(file.path)); }

  std::string path_;
  std::map<std::string, Known> known_;
};

absl::StatusOr<uint64_t> ReadDigest(const std::string& path, int64_t stored_before,
                                    ProgressMeter& progress) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, ByteSource::Open(path));
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash(XXH3_createState(),
                                                                             &XXH3_freeState);
  XXH3_64bits_reset(hash.get());
  std::vector<char> block(kReadBytes);
  while (true) {
    ASSIGN_OR_RETURN(const size_t got, source->Read(block.data(), block.size()));
    if (got == 0) break;
    XXH3_64bits_update(hash.get(), block.data(), got);
    progress.Advance(stored_before + source->stored_bytes_read());
  }
  return XXH3_64bits_digest(hash.get());
}

std::optional<uint64_t> FindAll(const std::vector<DataFile>& files, const Record& record) {
  std::vector<uint64_t> digests;
  for (const DataFile& file : files) {
    const std::optional<uint64_t> digest = record.Find(file);
    if (!digest.has_value()) return std::nullopt;
    digests.push_back(*digest);
  }
  return CombineDigests(digests);
}

// Reads what the record does not know, and tells it.
absl::StatusOr<uint64_t> ReadAll(const std::vector<DataFile>& files,
                                 const SourceDigestOptions& options, Record& record) {
  ProgressMeter progress(options.progress, TokenCacheProgress::Phase::kReading, StoredBytes(files));
  const RealClock clock;
  std::vector<uint64_t> digests;
  int64_t stored_before = 0;
  for (const DataFile& file : files) {
    if (const auto known = record.Find(file); known.has_value()) {
      digests.push_back(*known);
    } else {
      const int64_t settled = absl::ToUnixNanos(clock.Now() - options.settled_after);
      ASSIGN_OR_RETURN(digests.emplace_back(), ReadDigest(file.path, stored_before, progress));
      ASSIGN_OR_RETURN(const FileIdentity after, IdentityOf(file.path));
      if (after != file.identity) {
        return absl::UnavailableError(
            absl::StrCat(file.path, " changed while it was read; start again when it is complete"));
      }
      record.Forget(file);
      if (after.modified_ns < settled && after.changed_ns < settled) {
        record.Set(file, digests.back());
      }
    }
    stored_before += file.identity.bytes;
    progress.Advance(stored_before);
  }
  progress.Finish();
  return CombineDigests(digests);
}

}  // namespace

absl::StatusOr<uint64_t> DigestOfFiles(const std::vector<DataFile>& files,
                                       const SourceDigestOptions& options) {
  Record record(files, options.cache_dir);
  record.Load();
  if (const auto digest = FindAll(files, record); digest.has_value()) return *digest;
  // A folder that cannot be written costs the time of reading, not the job.
  const absl::Status place = MakeDirs(options.cache_dir);
  absl::StatusOr<UniqueFd> lock = absl::UnavailableError(place.message());
  if (place.ok()) lock = TakeCacheLock(record.path() + ".lock", options.progress);
  record.Load();
  if (const auto digest = FindAll(files, record); digest.has_value()) return *digest;
  ASSIGN_OR_RETURN(const uint64_t digest, ReadAll(files, options, record));
  const absl::Status saved = lock.ok() ? record.Save() : lock.status();
  if (!saved.ok()) {
    MF_LOG(INFO) << "the dataset is read again at the next start, since its digest cannot be kept: "
                 << saved.message();
  }
  return digest;
}

}  // namespace mindforge
