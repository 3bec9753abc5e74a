#include "worker/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "nlohmann/json.hpp"
#include "worker/tokenizer/byte_alphabet.h"
#include "worker/tokenizer/chat_template.h"
#include "worker/tokenizer/tokenizer.h"
#include "worker/tokenizer/utf8.h"

namespace mindforge {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kMaxVocabSize = 1'000'000;
constexpr int kIndent = 2;

using Pair = std::pair<int32_t, int32_t>;

// A pair waiting to be merged in the words listed. The most frequent comes first, of equals the one
// with the smaller ids.
struct QueuedPair {
  uint64_t count;
  Pair pair;
  std::vector<uint32_t> words;

  bool operator<(const QueuedPair& other) const {
    return count != other.count ? count < other.count : other.pair < pair;
  }
};

// Where a pair newly appeared, word by word.
using Appearances = absl::flat_hash_map<Pair, std::vector<uint32_t>>;

void NoteAppearance(const Pair& pair, uint32_t word, Appearances* appearances) {
  std::vector<uint32_t>& words = (*appearances)[pair];
  if (words.empty() || words.back() != word) words.push_back(word);
}

// The merge loop over words that are already symbols. Its order of merges, its lazily corrected
// counts and its treatment of a token that two pairs can form are those of the `tokenizers`
// package, so that both learn the same vocabulary.
class MergeLearner {
 public:
  MergeLearner(std::vector<std::string> tokens, std::vector<std::vector<int32_t>> words,
               std::vector<int64_t> counts)
      : tokens_(std::move(tokens)), words_(std::move(words)), counts_(std::move(counts)) {
    for (size_t i = 0; i < tokens_.size(); ++i) ids_.emplace(tokens_[i], static_cast<int32_t>(i));
    Appearances appearances;
    for (uint32_t w = 0; w < words_.size(); ++w) {
      for (size_t i = 0; i + 1 < words_[w].size(); ++i) {
        const Pair pair{words_[w][i], words_[w][i + 1]};
        pair_counts_[pair] += counts_[w];
        NoteAppearance(pair, w, &appearances);
      }
    }
    Enqueue(std::move(appearances));
  }

  void Learn(size_t vocab_size, int64_t min_frequency) {
    while (tokens_.size() < vocab_size && !queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end());
      QueuedPair top = std::move(queue_.back());
      queue_.pop_back();
      const auto count = static_cast<uint64_t>(pair_counts_[top.pair]);
      if (top.count != count) {
        top.count = count;
        Push(std::move(top));
        continue;
      }
      if (count < 1 || static_cast<uint64_t>(min_frequency) > count) break;
      Merge(top);
    }
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<Pair>& merges() const { return merges_; }

 private:
  void Push(QueuedPair pair) {
    queue_.push_back(std::move(pair));
    std::push_heap(queue_.begin(), queue_.end());
  }

  void Enqueue(Appearances appearances) {
    for (auto& [pair, words] : appearances) {
      const int64_t count = pair_counts_[pair];
      if (count > 0) Push({static_cast<uint64_t>(count), pair, std::move(words)});
    }
  }

  void Merge(const QueuedPair& top) {
    std::string token = tokens_[top.pair.first] + tokens_[top.pair.second];
    const auto [it, is_new] = ids_.emplace(token, static_cast<int32_t>(tokens_.size()));
    const int32_t merged = it->second;
    if (is_new) tokens_.push_back(std::move(token));
    merges_.push_back(top.pair);
    Appearances appearances;
    for (const uint32_t w : top.words) MergeInWord(w, top.pair, merged, &appearances);
    Enqueue(std::move(appearances));
  }

  void MergeInWord(uint32_t w, const Pair& pair, int32_t merged, Appearances* appearances) {
    std::vector<int32_t>& word = words_[w];
    const int64_t count = counts_[w];
    const auto gain = [&](int32_t left, int32_t right) {
      pair_counts_[{left, right}] += count;
      NoteAppearance({left, right}, w, appearances);
    };
    size_t kept = 0;
    for (size_t i = 0; i < word.size(); ++i) {
      if (word[i] != pair.first || i + 1 == word.size() || word[i + 1] != pair.second) {
        word[kept++] = word[i];
        continue;
      }
      if (kept > 0) {
        pair_counts_[{word[kept - 1], pair.first}] -= count;
        gain(word[kept - 1], merged);
      }
      if (i + 2 < word.size()) {
        pair_counts_[{pair.second, word[i + 2]}] -= count;
        gain(merged, word[i + 2]);
      }
      word[kept++] = merged;
      ++i;
    }
    word.resize(kept);
  }

  std::vector<std::string> tokens_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<std::vector<int32_t>> words_;
  std::vector<int64_t> counts_;
  absl::flat_hash_map<Pair, int64_t> pair_counts_;
  std::vector<QueuedPair> queue_;  // a heap
  std::vector<Pair> merges_;
};

OrderedJson ByteLevel(bool add_prefix_space) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", true}};
}

std::string TokenizerJson(const MergeLearner& learner, const std::vector<std::string>& special) {
  OrderedJson added = OrderedJson::array();
  for (size_t i = 0; i < special.size(); ++i) {
    added.push_back({{"id", i},
                     {"content", special[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  // Built as arrays of members: ordered_json looks a key up by walking all of them.
  OrderedJson::object_t vocab;
  for (size_t i = 0; i < learner.tokens().size(); ++i) {
    vocab.OrderedJson::object_t::Container::emplace_back(learner.tokens()[i], i);
  }
  OrderedJson merges = OrderedJson::array();
  for (const Pair& pair : learner.merges()) {
    merges.push_back({learner.tokens()[pair.first], learner.tokens()[pair.second]});
  }
  OrderedJson model = {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false}};
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  OrderedJson root = {{"version", "1.0"},          {"truncation", nullptr},
                      {"padding", nullptr},        {"added_tokens", std::move(added)},
                      {"normalizer", nullptr},     {"pre_tokenizer", ByteLevel(false)},
                      {"post_processor", nullptr}, {"decoder", ByteLevel(true)}};
  root["model"] = std::move(model);
  return root.dump(kIndent);
}

std::string TokenizerConfigJson(const std::vector<std::string>& special) {
  OrderedJson added = OrderedJson::object();
  for (size_t i = 0; i < special.size(); ++i) {
    added[std::to_string(i)] = {{"content", special[i]}, {"lstrip", false},
                                {"normalized", false},   {"rstrip", false},
                                {"single_word", false},  {"special", true}};
  }
  const auto named = [&](const char* token) {
    const bool known = std::find(special.begin(), special.end(), token) != special.end();
    return known ? OrderedJson(token) : OrderedJson(nullptr);
  };
  const OrderedJson root = {{"add_bos_token", false},
                            {"add_eos_token", false},
                            {"add_prefix_space", false},
                            {"added_tokens_decoder", std::move(added)},
                            {"additional_special_tokens", OrderedJson::array()},
                            {"bos_token", named("<|im_start|>")},
                            {"clean_up_tokenization_spaces", false},
                            {"eos_token", named("<|im_end|>")},
                            {"legacy", true},
                            {"model_max_length", 32768},
                            {"pad_token", named("<|endoftext|>")},
                            {"sp_model_kwargs", OrderedJson::object()},
                            {"spaces_between_special_tokens", false},
                            {"tokenizer_class", "PreTrainedTokenizerFast"},
                            {"unk_token", named("<|endoftext|>")},
                            {"chat_template", std::string(MiniMind2ChatTemplate())}};
  return root.dump(kIndent);
}

}  // namespace

struct BpeTrainer::Rep {
  BpeTrainerOptions options;
  absl::flat_hash_map<std::string, int64_t> word_counts;
  bool trained = false;
};

BpeTrainer::BpeTrainer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
BpeTrainer::~BpeTrainer() = default;

absl::StatusOr<std::unique_ptr<BpeTrainer>> BpeTrainer::Create(BpeTrainerOptions options) {
  std::vector<std::string> special = options.special_tokens;
  std::sort(special.begin(), special.end());
  if (std::adjacent_find(special.begin(), special.end()) != special.end() ||
      (!special.empty() && special.front().empty())) {
    return absl::InvalidArgumentError("special_tokens: each must be given once and not be empty");
  }
  for (const std::string& token : special) {
    if (!IsValidUtf8(token)) {
      return absl::InvalidArgumentError("special_tokens: each must be valid UTF-8");
    }
  }
  const auto least = static_cast<int64_t>(special.size()) + 256;
  if (options.vocab_size < least || options.vocab_size > kMaxVocabSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vocab_size: ", options.vocab_size, " is not between ", least, " (the 256 bytes and ",
        special.size(), " special tokens) and ", kMaxVocabSize));
  }
  if (options.min_frequency < 0) {
    return absl::InvalidArgumentError("min_frequency: must not be negative");
  }
  auto rep = std::make_unique<Rep>();
  rep->options = std::move(options);
  return std::unique_ptr<BpeTrainer>(new BpeTrainer(std::move(rep)));
}

void BpeTrainer::AddText(std::string_view text) {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = SanitizeUtf8(text);
    text = repaired;
  }
  while (!text.empty()) {
    const size_t length = FirstWordLength(text);
    ++rep_->word_counts[absl::string_view(text.data(), length)];
    text.remove_prefix(length);
  }
}

absl::StatusOr<TrainedTokenizer> BpeTrainer::Train() {
  if (rep_->trained) return absl::FailedPreconditionError("this trainer has trained already");
  if (rep_->word_counts.empty()) {
    return absl::FailedPreconditionError(
        "no text to train a tokenizer on; give a file whose lines have a non-empty `text`");
  }
  rep_->trained = true;
  std::vector<std::string> tokens = rep_->options.special_tokens;
  std::vector<std::pair<uint16_t, int>> alphabet;
  for (int byte = 0; byte < 256; ++byte) alphabet.emplace_back(ByteAlphabet()[byte], byte);
  std::sort(alphabet.begin(), alphabet.end());
  std::vector<int32_t> byte_ids(256);
  for (const auto& [spelling, byte] : alphabet) {
    std::string token;
    AppendUtf8(spelling, &token);
    const auto known = std::find(tokens.begin(), tokens.end(), token);
    byte_ids[byte] = static_cast<int32_t>(known - tokens.begin());
    if (known == tokens.end()) tokens.push_back(std::move(token));
  }
  std::vector<std::vector<int32_t>> words;
  std::vector<int64_t> counts;
  for (const auto& [word, count] : rep_->word_counts) {
    std::vector<int32_t>& symbols = words.emplace_back();
    for (const char c : word) symbols.push_back(byte_ids[static_cast<unsigned char>(c)]);
    counts.push_back(count);
  }
  rep_->word_counts.clear();
  MergeLearner learner(std::move(tokens), std::move(words), std::move(counts));
  learner.Learn(static_cast<size_t>(rep_->options.vocab_size), rep_->options.min_frequency);
  TrainedTokenizer trained;
  trained.tokenizer_json = TokenizerJson(learner, rep_->options.special_tokens);
  trained.tokenizer_config_json = TokenizerConfigJson(rep_->options.special_tokens);
  trained.vocab_size = static_cast<int64_t>(learner.tokens().size());
  return trained;
}

absl::Status WriteTokenizerFolder(const TrainedTokenizer& tokenizer, const std::string& dir) {
  RETURN_IF_ERROR(MakeDirs(dir));
  RETURN_IF_ERROR(WriteFileDurably(JoinPath(dir, "tokenizer.json"), tokenizer.tokenizer_json));
  RETURN_IF_ERROR(
      WriteFileDurably(JoinPath(dir, "tokenizer_config.json"), tokenizer.tokenizer_config_json));
  return RemoveTree(JoinPath(dir, "chat_template.jinja"));
}

}  // namespace mindforge
