// Rows for training out of jsonl files. Pad mode is the reference's: one text a row, truncated and
// padded to L ids, of which L-1 are inputs. Packed mode joins all texts, each followed by eos, and
// cuts rows of L+1 ids that share one id with the next row, so that every id but the first is a
// target once; the last row is padded. It does not know the order of rows (order.h) or tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/data/token_cache.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {

struct DatasetOptions {
  std::string path;            // a file or folder of jsonl, one object a line, field `text`
  std::string tokenizer_path;  // folder or tokenizer.json
  int64_t max_seq_len = 512;   // L
  bool packing = false;
  std::string cache_dir;
  int64_t pad_id = 0;
  int64_t eos_id = 2;
  int threads = 0;  // for tokenizing; see TokenCacheOptions
  ProgressFunction progress;
  std::vector<std::string> more_paths;  // read after `path`
  MalformedLines malformed = MalformedLines::kRefuse;
};

// Where a microbatch goes: `rows * row_length()` elements each, row-major. `document_starts` may be
// empty in pad mode; elsewhere it holds, for each position, the position in its row where its
// document begins (attention of position t covers document_starts[t] … t).
struct MicrobatchBuffers {
  absl::Span<int64_t> inputs;
  absl::Span<int64_t> targets;
  absl::Span<float> mask;  // 1: the target counts
  absl::Span<int32_t> document_starts;
};

// The rows of one dataset. Immutable, safe from any thread.
class Dataset {
 public:
  // Errors as Tokenizer::Load and TokenCache::Open; INVALID_ARGUMENT for max_seq_len < 2 or a pad
  // or eos id outside the vocabulary.
  static absl::StatusOr<std::unique_ptr<Dataset>> Open(DatasetOptions options);
  ~Dataset();

  // N: rows in an epoch.
  int64_t sequences() const { return sequences_; }
  // Positions in a row of inputs: L-1 in pad mode, L when packed.
  int64_t row_length() const { return row_length_; }
  bool packing() const { return options_.packing; }
  // Of what is in the files; see TokenCache.
  const std::string& digest() const { return cache_->dataset_digest(); }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  int64_t documents() const { return cache_->documents(); }
  int64_t tokens() const { return cache_->tokens(); }
  // Malformed lines that were left out.
  int64_t skipped_lines() const { return cache_->skipped_lines(); }

  // Fills the first `sequences.size()` rows of the buffers. REQUIRES: indices in [0, sequences()),
  // buffers large enough. When packed, a target in another document than its input, or beyond the
  // last text, has mask 0.
  void FillMicrobatch(absl::Span<const int64_t> sequences, const MicrobatchBuffers& out) const;

 private:
  Dataset() = default;
  void FillPadded(int64_t document, int64_t* inputs, int64_t* targets, float* mask,
                  int32_t* document_starts) const;
  void FillPacked(int64_t row, int64_t* inputs, int64_t* targets, float* mask,
                  int32_t* document_starts) const;

  DatasetOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TokenCache> cache_;
  int64_t sequences_ = 0;
  int64_t row_length_ = 0;
};

}  // namespace mindforge
