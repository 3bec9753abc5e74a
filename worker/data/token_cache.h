// The documents of jsonl files as token ids in one mapped binary file. The cache depends on
// dataset, tokenizer and what a line becomes (line_encoder.h) only, so every sequence length and
// both packing modes share it. It does not know rows or batches (dataset.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
};

// The token ids of each document. Immutable, safe from any thread.
class TokenCache {
 public:
  // Opens the cache of (dataset, tokenizer, encoder), building it first when it is missing or
  // unsound. One process of a host builds, others wait for it; where the file system has no locks
  // each builds and the last rename wins. Memory does not grow with the files. A cache is taken as
  // it is only when the digest of what is in the files now, read anew, is its own. NOT_FOUND: no
  // dataset. INVALID_ARGUMENT: malformed lines (file, number and reason of the first ten, and how
  // many), or nothing to train on; with a violation of data.cache_dir: that folder cannot be
  // written. RESOURCE_EXHAUSTED: the disk is full.
  static absl::StatusOr<std::unique_ptr<TokenCache>> Open(const TokenCacheOptions& options,
                                                          const Tokenizer& tokenizer);
  ~TokenCache();
  TokenCache(const TokenCache&) = delete;
  TokenCache& operator=(const TokenCache&) = delete;

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  // DigestOfFiles in 16 hexadecimal digits: of one file the XXH3-64 of its (decompressed) bytes.
  const std::string& dataset_digest() const { return dataset_digest_; }

  // Malformed lines that were left out.
  int64_t skipped_lines() const { return skipped_lines_; }

  int64_t DocumentLength(int64_t document) const {
    return static_cast<int64_t>(offsets_[document + 1] - offsets_[document]);
  }
  // Tokens of all documents before this one; documents() is allowed.
  int64_t DocumentOffset(int64_t document) const {
    return static_cast<int64_t>(offsets_[document]);
  }
  // Copies ids [begin, begin + out.size()) of a document. REQUIRES: they exist.
  void CopyIds(int64_t document, int64_t begin, absl::Span<int64_t> out) const;

 private:
  TokenCache() = default;
  static absl::StatusOr<std::unique_ptr<TokenCache>> Map(const std::string& path);

  std::string dataset_digest_;
  const char* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
  int64_t documents_ = 0;
  int64_t tokens_ = 0;
  int64_t skipped_lines_ = 0;
  int id_bytes_ = 0;  // 2 or 4
  const uint64_t* offsets_ = nullptr;
  const char* ids_ = nullptr;
};

}  // namespace mindforge
