// The documents of jsonl files as token ids in one mapped binary file. The cache depends on
// dataset, tokenizer and what a line becomes (line_encoder.h) only, so every sequence length and
// both packing modes share it. It does not know rows or batches (dataset.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "worker/data/jsonl_reader.h"
#include "worker/data/progress_meter.h"

namespace mindforge {

class LineEncoder;
class Tokenizer;

// What a line that the encoder cannot use, or that is too long, means.
enum class MalformedLines {
  kRefuse,  // no cache; the error tells where the first ones are and how many there are
  kSkip,    // they are left out and counted; the first ones are logged
};

struct TokenCacheOptions {
  std::vector<std::string> paths;  // see ListDataFiles
  MalformedLines malformed = MalformedLines::kRefuse;
  std::string cache_dir;      // created when missing
  int threads = 0;            // for tokenizing; 0: as many as the machine has, at most 8
  ProgressFunction progress;  // called on the caller's thread
  JsonlLimits limits;
  const LineEncoder* encoder = nullptr;  // null: a line is its `text`
  // Of the dataset; empty: any. Of a folder also what earlier builds took fits (FolderRule).
  std::string expected_digest;
  // See SourceDigestOptions.
  absl::Duration settled_after = absl::Seconds(5);
};

// Reasons (common/error_details.h). The texts cannot be trained on, whoever reads them.
inline constexpr char kUnusableData[] = "UNUSABLE_DATA";
// The files are not those of `expected_digest`.
inline constexpr char kAnotherDataset[] = "ANOTHER_DATASET";

// The token ids of each document. Safe from any thread.
class TokenCache {
 public:
  // Opens the cache of (dataset, tokenizer, encoder), building it first when it is missing or
  // unsound, which is logged. One process of a host builds, others wait for it; where hosts do not
  // see each other's locks each builds and the first to finish is everybody's. Memory does not grow
  // with the files. Which cache it is, the digest of what is in the files decides
  // (source_digests.h). NOT_FOUND: no dataset. INVALID_ARGUMENT, kUnusableData: malformed lines
  // (file, number and reason of the first ten, and how many), or nothing to train on.
  // FAILED_PRECONDITION, kAnotherDataset. Trouble with the cache that making it anew does not cure
  // is told at once. With a violation of data.cache_dir: see OfCacheDir.
  static absl::StatusOr<std::unique_ptr<TokenCache>> Open(const TokenCacheOptions& options,
                                                          const Tokenizer& tokenizer);
  ~TokenCache();
  TokenCache(const TokenCache&) = delete;
  TokenCache& operator=(const TokenCache&) = delete;

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  // DigestOfFiles in 16 hexadecimal digits: of one file the XXH3-64 of its (decompressed) bytes.
  const std::string& dataset_digest() const { return dataset_digest_; }

  // Malformed lines that were left out, and which, by file, a line each.
  int64_t skipped_lines() const { return skipped_lines_; }
  const std::string& notes() const { return notes_; }

  int64_t DocumentLength(int64_t document) const {
    return static_cast<int64_t>(offsets_[document + 1] - offsets_[document]);
  }
  // Tokens of all documents before this one; documents() is allowed.
  int64_t DocumentOffset(int64_t document) const {
    return static_cast<int64_t>(offsets_[document]);
  }
  // Copies ids [begin, begin + out.size()) of a document, having checked the blocks of the file
  // that they lie in when they are first used. `out` counts only while status() is OK.
  // REQUIRES: they exist.
  void CopyIds(int64_t document, int64_t begin, absl::Span<int64_t> out) const;

  // DATA_LOSS once a block was found damaged. The file is removed then: the next Open makes it
  // anew.
  absl::Status status() const;

 private:
  enum class BlockState : uint8_t { kUnknown, kSound };

  TokenCache() = default;
  // `inode`: set to the file's once it is open. NOT_FOUND: no file. DATA_LOSS: it is damaged.
  static absl::StatusOr<std::unique_ptr<TokenCache>> Map(const std::string& path, uint64_t* inode);
  absl::Status TakeHeader();
  // Checks what of the payload's bytes [begin, end) was not checked yet.
  void Check(uint64_t begin, uint64_t end) const;
  bool IsSound(uint64_t block) const;

  std::string path_;
  uint64_t inode_ = 0;
  std::string dataset_digest_;
  const char* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
  int64_t documents_ = 0;
  int64_t tokens_ = 0;
  int64_t skipped_lines_ = 0;
  std::string notes_;
  int id_bytes_ = 0;  // 2 or 4
  uint64_t payload_bytes_ = 0;
  const uint64_t* offsets_ = nullptr;
  const char* ids_ = nullptr;            // where the payload begins
  const char* block_digests_ = nullptr;  // unaligned uint64_t each
  // Two threads may check a block at once, and come to the same.
  std::unique_ptr<std::atomic<BlockState>[]> blocks_;
  mutable std::atomic<bool> damaged_ = false;
  mutable std::atomic<uint64_t> damaged_block_ = 0;
};

}  // namespace mindforge
