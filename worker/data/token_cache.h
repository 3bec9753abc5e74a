// A jsonl file's texts as token ids in one mapped binary file. The cache depends on dataset and
// tokenizer only, so every sequence length and both packing modes share it. It does not know rows
// or batches (dataset.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

struct TokenCacheProgress {
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
};

struct TokenCacheOptions {
  std::string path;       // the jsonl file
  std::string cache_dir;  // created when missing
  int threads = 0;        // for tokenizing; 0: as many as the machine has, at most 8
  std::function<void(const TokenCacheProgress&)> progress;  // called on the caller's thread
};

// The token ids of each document. Immutable, safe from any thread.
class TokenCache {
 public:
  // Opens the cache of (dataset, tokenizer), building it first when it is missing or unsound. One
  // process of a host builds, others wait for it; where the file system has no locks each builds
  // and the last rename wins.
  // NOT_FOUND: no dataset. INVALID_ARGUMENT: broken lines (number and reason of the first ten, and
  // how many), or no text with two tokens or more. RESOURCE_EXHAUSTED: the disk is full.
  static absl::StatusOr<std::unique_ptr<TokenCache>> Open(const TokenCacheOptions& options,
                                                          const Tokenizer& tokenizer);
  ~TokenCache();
  TokenCache(const TokenCache&) = delete;
  TokenCache& operator=(const TokenCache&) = delete;

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  // XXH3-64 of the jsonl file's bytes in 16 hexadecimal digits.
  const std::string& dataset_digest() const { return dataset_digest_; }

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
  int id_bytes_ = 0;  // 2 or 4
  const uint64_t* offsets_ = nullptr;
  const char* ids_ = nullptr;
};

}  // namespace mindforge
