// Turns a jsonl file into a token file, with several threads. It does not know who waits for it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/data/token_cache.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

// Writes `path` atomically. Errors as TokenCache::Open; UNAVAILABLE when the dataset no longer has
// `digest` after it was read: it changed meanwhile.
absl::Status BuildTokenFile(const TokenCacheOptions& options, const Tokenizer& tokenizer,
                            uint64_t digest, const std::string& path);

}  // namespace mindforge
