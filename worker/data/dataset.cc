#include "worker/data/dataset.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "worker/data/conversation_encoder.h"
#include "worker/tokenizer/tokenizer.h"

namespace mindforge {
namespace {

constexpr int64_t kMaxSequenceLength = int64_t{1} << 24;

void FillIds(const Tokenizer& tokenizer, DatasetOptions& options) {
  options.pad_id = options.pad_id.value_or(tokenizer.pad_id().value_or(0));
  options.bos_id = options.bos_id.value_or(tokenizer.bos_id().value_or(1));
  options.eos_id = options.eos_id.value_or(tokenizer.eos_id().value_or(2));
}

absl::Status CheckOptions(const DatasetOptions& options, int64_t vocab_size) {
  if (options.max_seq_len < 2 || options.max_seq_len > kMaxSequenceLength) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_seq_len: must be from 2 to ", kMaxSequenceLength, ", it is ", options.max_seq_len));
  }
  const std::pair<const char*, int64_t> ids[] = {{"pad_token_id", *options.pad_id},
                                                 {"bos_token_id", *options.bos_id},
                                                 {"eos_token_id", *options.eos_id}};
  for (const auto& [name, id] : ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", id, " is not among the ",
                                                     vocab_size, " entries of the tokenizer"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Dataset>> Dataset::Open(DatasetOptions options) {
  std::unique_ptr<Dataset> dataset(new Dataset());
  ASSIGN_OR_RETURN(dataset->tokenizer_, Tokenizer::Load(options.tokenizer_path));
  FillIds(*dataset->tokenizer_, options);
  RETURN_IF_ERROR(CheckOptions(options, dataset->tokenizer_->vocab_size()));
  std::unique_ptr<ConversationEncoder> conversations;
  if (options.conversations.has_value()) {
    ASSIGN_OR_RETURN(conversations,
                     ConversationEncoder::For(*dataset->tokenizer_, *options.conversations));
    dataset->answers_ = conversations->answers();
  }
  std::vector<std::string> paths = {options.path};
  paths.insert(paths.end(), options.more_paths.begin(), options.more_paths.end());
  ASSIGN_OR_RETURN(dataset->cache_, TokenCache::Open({.paths = std::move(paths),
                                                      .malformed = options.malformed,
                                                      .cache_dir = options.cache_dir,
                                                      .threads = options.threads,
                                                      .progress = options.progress,
                                                      .encoder = conversations.get(),
                                                      .expected_digest = options.expected_digest},
                                                     *dataset->tokenizer_));
  const RowOptions rows{.max_seq_len = options.max_seq_len,
                        .packing = options.packing,
                        .add_bos_eos = options.add_bos_eos,
                        .answers = dataset->answers_ ? &*dataset->answers_ : nullptr,
                        .pad_id = *options.pad_id,
                        .bos_id = *options.bos_id,
                        .eos_id = *options.eos_id};
  dataset->layout_ = std::make_unique<RowLayout>(*dataset->cache_, rows);
  dataset->options_ = std::move(options);
  return dataset;
}

Dataset::Dataset() = default;
Dataset::~Dataset() = default;

int64_t Dataset::vocab_size() const { return tokenizer_->vocab_size(); }
const std::string& Dataset::tokenizer_digest() const { return tokenizer_->digest(); }

AnswersFound Dataset::LookForAnswers(int64_t rows) const {
  AnswersFound found;
  if (!answers_.has_value() || options_.packing) return found;
  std::vector<int64_t> ids;
  for (int64_t row = 0; row < sequences(); ++row) {
    if (row >= rows && found.without < found.rows) break;
    ids.resize(std::min(cache_->DocumentLength(row), options_.max_seq_len));
    cache_->CopyIds(row, 0, absl::MakeSpan(ids));
    ++found.rows;
    found.without += !answers_->HasAny(absl::MakeConstSpan(ids));
  }
  return found;
}

absl::Status Dataset::FillMicrobatch(absl::Span<const int64_t> sequences,
                                     const MicrobatchBuffers& out) const {
  const auto length = static_cast<size_t>(row_length());
  const size_t needed = sequences.size() * length;
  MF_CHECK(out.inputs.size() >= needed && out.targets.size() >= needed && out.mask.size() >= needed)
      << "buffers are smaller than " << needed;
  MF_CHECK(out.document_starts.size() >= needed ||
           (out.document_starts.empty() && !options_.packing))
      << "document_starts is smaller than " << needed;
  for (size_t row = 0; row < sequences.size(); ++row) {
    const int64_t sequence = sequences[row];
    MF_CHECK(sequence >= 0 && sequence < this->sequences()) << sequence;
    const auto part = [at = row * length, length](auto all) {
      return all.empty() ? all : all.subspan(at, length);
    };
    layout_->Fill(sequence, {.inputs = part(out.inputs),
                             .targets = part(out.targets),
                             .mask = part(out.mask),
                             .document_starts = part(out.document_starts)});
  }
  return cache_->status();
}

}  // namespace mindforge
