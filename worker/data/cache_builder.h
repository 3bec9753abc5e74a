// Turns jsonl files into a token file, with several threads. It does not know who waits for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/data/data_files.h"
#include "worker/data/token_cache.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

// Writes `path` atomically, the same bytes with any number of threads. Errors as TokenCache::Open;
// UNAVAILABLE when the files no longer have `digest` after they were read: they changed meanwhile.
absl::Status BuildTokenFile(const TokenCacheOptions& options, const std::vector<DataFile>& files,
                            const Tokenizer& tokenizer, uint64_t digest, const std::string& path);

}  // namespace mindforge
