// Rows for training out of jsonl files: lines become documents (line_encoder.h), their ids are kept
// in a cache (token_cache.h) and laid out in rows (row_layout.h). It does not know the order of
// rows (order.h) or tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/data/answer_mask.h"
#include "worker/data/conversation_options.h"
#include "worker/data/row_layout.h"
#include "worker/data/token_cache.h"

namespace mindforge {

class Tokenizer;

struct DatasetOptions {
  std::string path;            // a file or folder of jsonl, one object a line
  std::string tokenizer_path;  // folder or tokenizer.json
  int64_t max_seq_len = 512;   // L
  bool packing = false;
  std::string cache_dir;
  // Unset: those that the tokenizer's folder names, else MiniMind's 0, 1 and 2.
  std::optional<int64_t> pad_id;
  std::optional<int64_t> bos_id;
  std::optional<int64_t> eos_id;
  int threads = 0;  // for tokenizing; see TokenCacheOptions
  ProgressFunction progress;
  std::vector<std::string> more_paths;  // read after `path`
  MalformedLines malformed = MalformedLines::kRefuse;
  bool add_bos_eos = false;  // around each text
  // Set: a line is a conversation, not a text.
  std::optional<ConversationOptions> conversations;
  std::string expected_digest;  // see TokenCacheOptions
};

// What a look at a dataset of conversations found.
struct AnswersFound {
  int64_t rows = 0;     // looked at
  int64_t without = 0;  // whose ids within max_seq_len have no answer: nothing is learned from them
};

// The rows of one dataset. Immutable, safe from any thread.
class Dataset {
 public:
  // Errors as Tokenizer::Load and TokenCache::Open; INVALID_ARGUMENT for max_seq_len < 2 or a pad,
  // bos or eos id outside the vocabulary.
  static absl::StatusOr<std::unique_ptr<Dataset>> Open(DatasetOptions options);
  ~Dataset();

  // N: rows in an epoch.
  int64_t sequences() const { return layout_->rows(); }
  // Positions in a row of inputs.
  int64_t row_length() const { return layout_->row_length(); }
  bool packing() const { return options_.packing; }
  // Of what is in the files; see TokenCache.
  const std::string& digest() const { return cache_->dataset_digest(); }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  int64_t vocab_size() const;                   // the tokenizer's
  const std::string& tokenizer_digest() const;  // of its tokenizer.json
  int64_t documents() const { return cache_->documents(); }
  int64_t tokens() const { return cache_->tokens(); }
  // Malformed lines that were left out, and which, by file, a line each.
  int64_t skipped_lines() const { return cache_->skipped_lines(); }
  const std::string& notes() const { return cache_->notes(); }
  int64_t pad_id() const { return *options_.pad_id; }
  int64_t bos_id() const { return *options_.bos_id; }
  int64_t eos_id() const { return *options_.eos_id; }

  // DATA_LOSS: the token cache was found damaged (TokenCache::status).
  absl::Status status() const { return cache_->status(); }

  // Looks at the first `rows` conversations, in pad mode, and on until one with an answer; nothing
  // where rows are texts or packed.
  AnswersFound LookForAnswers(int64_t rows) const;

  // Fills the first `sequences.size()` rows of the buffers. REQUIRES: indices in [0, sequences()),
  // buffers large enough. DATA_LOSS: the token cache is damaged; what was filled counts for nothing
  // (TokenCache::status).
  absl::Status FillMicrobatch(absl::Span<const int64_t> sequences,
                              const MicrobatchBuffers& out) const;

 private:
  Dataset();
  DatasetOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TokenCache> cache_;
  std::optional<AnswerMask> answers_;
  std::unique_ptr<RowLayout> layout_;
};

}  // namespace mindforge
