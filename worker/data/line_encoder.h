// What one line of a jsonl file becomes: the token ids of a document. It does not know files, nor
// how documents are laid out in rows (dataset.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/jsonl_reader.h"

namespace mindforge {

class Tokenizer;

// Safe from any thread.
class LineEncoder {
 public:
  virtual ~LineEncoder() = default;

  // Appends the ids of a line's document, or checks the line alone where `ids` is null; `file`
  // counts the dataset's files from 0. INVALID_ARGUMENT: why the line cannot be used.
  virtual absl::Status Encode(const NumberedLine& line, int64_t file,
                              std::vector<int32_t>* ids) const = 0;
  // True when a document has something to train on.
  virtual bool IsTrainable(absl::Span<const int32_t> ids) const = 0;

  // Names what decides the ids besides the files and tokenizer.json, in characters that a file's
  // name may have; part of the token cache's name. Empty where nothing does.
  virtual std::string key() const = 0;
  // "a JSON object with a non-empty string `text`"
  virtual absl::string_view line_form() const = 0;
  // "text of two tokens or more": what a dataset with nothing to train on has none of.
  virtual absl::string_view trainable_form() const = 0;
};

// A line's field `text`, without bos or eos.
class TextEncoder : public LineEncoder {
 public:
  explicit TextEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  absl::Status Encode(const NumberedLine& line, int64_t file,
                      std::vector<int32_t>* ids) const override;
  bool IsTrainable(absl::Span<const int32_t> ids) const override { return ids.size() >= 2; }
  std::string key() const override { return ""; }
  absl::string_view line_form() const override {
    return "a JSON object with a non-empty string `text`";
  }
  absl::string_view trainable_form() const override { return "text of two tokens or more"; }

 private:
  const Tokenizer& tokenizer_;
};

}  // namespace mindforge
