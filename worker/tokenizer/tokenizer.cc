#include "worker/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/durable_file.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "worker/tokenizer/added_tokens.h"
#include "worker/tokenizer/bpe_model.h"
#include "worker/tokenizer/byte_alphabet.h"
#include "worker/tokenizer/tokenizer_json.h"
#include "worker/tokenizer/utf8.h"
#include "worker/tokenizer/word_cache.h"
#include "xxhash.h"

namespace mindforge {
namespace {

constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr size_t kMaxIdleCaches = 16;

// Word caches lent to one Encode call at a time, so that threads neither share nor rebuild them.
class CachePool {
 public:
  std::unique_ptr<WordCache> Take() {
    {
      MutexLock lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<WordCache> cache = std::move(idle_.back());
        idle_.pop_back();
        return cache;
      }
    }
    return std::make_unique<WordCache>();
  }

  void Return(std::unique_ptr<WordCache> cache) {
    MutexLock lock(mutex_);
    if (idle_.size() < kMaxIdleCaches) idle_.push_back(std::move(cache));
  }

 private:
  Mutex mutex_;
  std::vector<std::unique_ptr<WordCache>> idle_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::string> ReadOptional(const std::string& path, size_t max_bytes) {
  absl::StatusOr<std::string> content = ReadFile(path, max_bytes);
  if (absl::IsNotFound(content.status())) return std::string();
  return content;
}

}  // namespace

size_t CompleteUtf8Prefix(std::string_view text) {
  // An unfinished character is at most three bytes long.
  for (size_t tail = 1; tail <= 3 && tail <= text.size(); ++tail) {
    const auto first = static_cast<unsigned char>(text[text.size() - tail]);
    if ((first & 0xC0) == 0x80) continue;
    const Utf8Step step = Utf8Sequence(text.substr(text.size() - tail));
    return step.kind == Utf8Step::Kind::kIncomplete ? text.size() - tail : text.size();
  }
  return text.size();
}

struct Tokenizer::Rep {
  explicit Rep(TokenizerDefinition definition)
      : ids(std::move(definition.ids)),
        tokens(std::move(definition.tokens)),
        model(definition.byte_ids, std::move(definition.merges)),
        added(std::move(definition.added)),
        ignore_merges(definition.ignore_merges),
        add_prefix_space(definition.add_prefix_space),
        use_regex(definition.use_regex) {
    bytes.reserve(tokens.size());
    for (const std::string& token : tokens) {
      bytes.push_back(UnspellToken(token));
      max_token_bytes = std::max(max_token_bytes, bytes.back().size());
    }
    special.resize(tokens.size());
    for (const AddedToken& token : added.tokens()) special[token.id] = token.special;
  }

  void EncodeWord(std::string_view word, WordCache* cache, std::vector<int32_t>* out) const;
  void EncodePiece(std::string_view piece, WordCache* cache, std::vector<int32_t>* out) const;

  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::string> tokens;
  std::vector<std::string> bytes;  // what each token spells
  std::vector<bool> special;
  size_t max_token_bytes = 0;
  BpeModel model;
  AddedTokens added;
  bool ignore_merges;
  bool add_prefix_space;
  bool use_regex;
  std::string digest;
  std::map<std::string, std::string> chat_templates;
  std::string chat_template_problem;
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
  std::optional<int32_t> pad_id;
  mutable CachePool caches;
};

void Tokenizer::Rep::EncodeWord(std::string_view word, WordCache* cache,
                                std::vector<int32_t>* out) const {
  if (ignore_merges) {
    if (const auto it = ids.find(SpellBytes(word)); it != ids.end()) {
      out->push_back(it->second);
      return;
    }
  }
  if (word.size() > WordCache::kMaxWordBytes) return model.EncodeWord(word, out);
  const size_t slot = cache->SlotOf(word);
  if (cache->AppendIfFound(slot, word, out)) return;
  const size_t before = out->size();
  model.EncodeWord(word, out);
  cache->Put(slot, word, out->data() + before, out->size() - before);
}

void Tokenizer::Rep::EncodePiece(std::string_view piece, WordCache* cache,
                                 std::vector<int32_t>* out) const {
  std::string prefixed;
  if (add_prefix_space && piece.front() != ' ') {
    prefixed = std::string(" ").append(piece);
    piece = prefixed;
  }
  if (!use_regex) return EncodeWord(piece, cache, out);
  while (!piece.empty()) {
    const size_t length = FirstWordLength(piece);
    EncodeWord(piece.substr(0, length), cache, out);
    piece.remove_prefix(length);
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json,
                                                               std::string_view config_json) {
  ASSIGN_OR_RETURN(TokenizerDefinition definition, ParseTokenizerJson(tokenizer_json));
  auto rep = std::make_unique<Rep>(std::move(definition));
  rep->digest = absl::StrFormat("%016x", XXH3_64bits(tokenizer_json.data(), tokenizer_json.size()));
  if (!config_json.empty()) {
    ASSIGN_OR_RETURN(TokenizerConfig config, ParseTokenizerConfig(config_json));
    const auto id_of = [&](const std::string& token) -> std::optional<int32_t> {
      const auto it = rep->ids.find(token);
      if (it == rep->ids.end()) return std::nullopt;
      return it->second;
    };
    rep->bos_id = id_of(config.bos_token);
    rep->eos_id = id_of(config.eos_token);
    rep->pad_id = id_of(config.pad_token);
    rep->chat_templates = std::move(config.chat_templates);
    rep->chat_template_problem = std::move(config.chat_template_problem);
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(rep)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  const bool is_file = path.ends_with(".json");
  const std::string folder = is_file ? path.substr(0, path.find_last_of('/') + 1) : path;
  const std::string file = is_file ? path : JoinPath(path, "tokenizer.json");
  absl::StatusOr<std::string> json = ReadFile(file, kMaxTokenizerBytes);
  if (absl::IsNotFound(json.status())) {
    return absl::NotFoundError(
        absl::StrCat("no tokenizer: ", file,
                     " does not exist; name a folder with a tokenizer.json, or make one "
                     "with `mindforge tokenizer train`"));
  }
  RETURN_IF_ERROR(json.status());
  const auto beside = [&](std::string_view name) {
    return folder.empty() ? std::string(name) : JoinPath(folder, name);
  };
  ASSIGN_OR_RETURN(const std::string config,
                   ReadOptional(beside("tokenizer_config.json"), kMaxConfigBytes));
  ASSIGN_OR_RETURN(std::string chat, ReadOptional(beside("chat_template.jinja"), kMaxConfigBytes));
  ASSIGN_OR_RETURN(
      std::string tool_use,
      ReadOptional(beside("additional_chat_templates/tool_use.jinja"), kMaxConfigBytes));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FromJson(*json, config);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), file);
  std::map<std::string, std::string>& templates = (*tokenizer)->rep_->chat_templates;
  if (!chat.empty()) templates[kDefaultTemplate] = std::move(chat);
  if (!tool_use.empty()) templates[kToolUseTemplate] = std::move(tool_use);
  return tokenizer;
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(rep_->tokens.size()); }
int64_t Tokenizer::max_token_bytes() const { return static_cast<int64_t>(rep_->max_token_bytes); }
const std::string& Tokenizer::digest() const { return rep_->digest; }
const std::map<std::string, std::string>& Tokenizer::chat_templates() const {
  return rep_->chat_templates;
}
const std::string& Tokenizer::chat_template_problem() const { return rep_->chat_template_problem; }
std::optional<int32_t> Tokenizer::bos_id() const { return rep_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return rep_->eos_id; }
std::optional<int32_t> Tokenizer::pad_id() const { return rep_->pad_id; }

std::vector<int32_t> Tokenizer::Encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  EncodeAppend(text, &ids);
  return ids;
}

void Tokenizer::EncodeAppend(std::string_view text, std::vector<int32_t>* ids) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = SanitizeUtf8(text);
    text = repaired;
  }
  EncodeValid(text, {}, ids);
}

std::vector<int32_t> Tokenizer::EncodeWithPlain(std::string_view text,
                                                absl::Span<const TextSpan> plain) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  EncodeValid(text, plain, &ids);
  return ids;
}

void Tokenizer::EncodeValid(std::string_view text, absl::Span<const TextSpan> plain,
                            std::vector<int32_t>* ids) const {
  std::unique_ptr<WordCache> cache = rep_->caches.Take();
  rep_->added.Split(
      text, plain, [&](std::string_view piece) { rep_->EncodePiece(piece, cache.get(), ids); },
      [&](int32_t id) { ids->push_back(id); });
  rep_->caches.Return(std::move(cache));
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, DecodeOptions options) const {
  std::string raw;
  for (const int32_t id : ids) {
    if (options.skip_special_tokens && IsSpecial(id)) continue;
    raw.append(TokenBytes(id));
  }
  return IsValidUtf8(raw) ? raw : SanitizeUtf8(raw);
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(rep_->bytes[id]) : std::string_view();
}

std::string_view Tokenizer::TokenString(int32_t id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(rep_->tokens[id]) : std::string_view();
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto it = rep_->ids.find(std::string(token));
  if (it == rep_->ids.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && rep_->special[id];
}

std::string StreamingDecoder::Push(int32_t id) {
  if (options_.skip_special_tokens && tokenizer_.IsSpecial(id)) return "";
  pending_.append(tokenizer_.TokenBytes(id));
  const size_t complete = CompleteUtf8Prefix(pending_);
  std::string text = SanitizeUtf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string StreamingDecoder::Flush() {
  std::string text = SanitizeUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace mindforge
