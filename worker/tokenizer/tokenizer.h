// Byte-level BPE from a Hugging Face tokenizer.json, id for id as the `tokenizers` package. It does
// not know chat templates (chat_template.h) or how a vocabulary is trained (bpe_trainer.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/tokenizer/text_span.h"

namespace mindforge {

// Length of the longest prefix of `text` that does not end inside a character that more bytes could
// complete.
size_t CompleteUtf8Prefix(std::string_view text);

struct DecodeOptions {
  bool skip_special_tokens = false;
};

// An immutable vocabulary with its merges. Safe from any thread.
class Tokenizer {
 public:
  // `path` is a tokenizer.json or a folder that holds one (and perhaps tokenizer_config.json).
  // NOT_FOUND: no such file. INVALID_ARGUMENT: not JSON (with the place), a field missing or of a
  // wrong type, or a feature that is not supported, named.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // `config_json` is tokenizer_config.json's content, empty when there is none.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                             std::string_view config_json = {});
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // One more than the largest id.
  int64_t vocab_size() const;
  // No id stands for more bytes of a text. Added tokens that swallow white space are not counted.
  int64_t max_token_bytes() const;
  // XXH3-64 of tokenizer.json in 16 hexadecimal digits.
  const std::string& digest() const;

  // Added tokens found in the text become their ids. Adds no bos or eos. Invalid UTF-8 counts as
  // U+FFFD.
  std::vector<int32_t> Encode(std::string_view text) const;
  void EncodeAppend(std::string_view text, std::vector<int32_t>* ids) const;
  // The same, but special tokens that touch a span of `plain` are spelled like any text, so that
  // whoever wrote it cannot speak for the template. Added tokens that are not special (<think>)
  // stay tokens there, as with `split_special_tokens` of transformers. REQUIRES: valid UTF-8; the
  // spans are in order, disjoint and within the text.
  std::vector<int32_t> EncodeWithPlain(std::string_view text,
                                       absl::Span<const TextSpan> plain) const;

  // What is not UTF-8 in the end becomes U+FFFD; ids that do not exist are skipped.
  std::string Decode(absl::Span<const int32_t> ids, DecodeOptions options = {}) const;

  // The raw bytes of one token (perhaps part of a character); empty when there is no such id.
  std::string_view TokenBytes(int32_t id) const;
  // The token as the vocabulary spells it (byte-level alphabet); empty when there is no such id.
  std::string_view TokenString(int32_t id) const;
  std::optional<int32_t> TokenToId(std::string_view token) const;
  bool IsSpecial(int32_t id) const;

  // From tokenizer_config.json where it names tokens of the vocabulary.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  // Jinja sources by name, as tokenizer_config.json lists them; a single one is "default".
  // chat_template.jinja stands over it, additional_chat_templates/NAME.jinja beside it.
  const std::map<std::string, std::string>& chat_templates() const;
  // Why tokenizer_config.json's cannot be read, or not all of them; empty when they can.
  const std::string& chat_template_problem() const;

 private:
  struct Rep;
  void EncodeValid(std::string_view text, absl::Span<const TextSpan> plain,
                   std::vector<int32_t>* ids) const;
  explicit Tokenizer(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

// Turns a stream of ids into text that never holds part of a character. One thread at a time; the
// tokenizer must outlive it.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer, DecodeOptions options = {})
      : tokenizer_(tokenizer), options_(options) {}

  // The text that became certain with this id; empty inside a character.
  std::string Push(int32_t id);
  // What is left, an unfinished character as U+FFFD. All pieces together equal Decode of all ids.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const DecodeOptions options_;
  std::string pending_;
};

}  // namespace mindforge
