// Training of a new byte-level BPE vocabulary, with the counts and tie-breaks of the `tokenizers`
// package's BpeTrainer over the ByteLevel alphabet. It does not read files: texts are handed in.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mindforge {

struct BpeTrainerOptions {
  int64_t vocab_size = 6400;  // special tokens and the 256 bytes included
  int64_t min_frequency = 0;  // pairs seen less often are not merged
  std::vector<std::string> special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
};

// The two files of a tokenizer folder, as bytes.
struct TrainedTokenizer {
  std::string tokenizer_json;
  std::string tokenizer_config_json;  // MiniMind's, with its chat template
  int64_t vocab_size = 0;             // fewer than asked when the texts hold no more pairs
};

// Collects word counts, then merges. One thread at a time.
class BpeTrainer {
 public:
  // INVALID_ARGUMENT: a vocabulary smaller than special tokens and bytes together or over
  // 1,000,000, or an empty or doubled special token.
  static absl::StatusOr<std::unique_ptr<BpeTrainer>> Create(BpeTrainerOptions options);
  ~BpeTrainer();

  // Counts the words of one text.
  void AddText(std::string_view text);
  // FAILED_PRECONDITION: no text was added. May be called once.
  absl::StatusOr<TrainedTokenizer> Train();

 private:
  struct Rep;
  explicit BpeTrainer(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

// Writes tokenizer.json and tokenizer_config.json into `dir` (created when missing). Files of those
// names are replaced; a chat_template.jinja, which would win over the new configuration's template,
// is removed.
absl::Status WriteTokenizerFolder(const TrainedTokenizer& tokenizer, const std::string& dir);

}  // namespace mindforge
