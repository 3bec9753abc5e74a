#include "worker/data/dataset.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

constexpr int64_t kMaxSequenceLength = int64_t{1} << 24;

absl::Status CheckOptions(const DatasetOptions& options, int64_t vocab_size) {
  if (options.max_seq_len < 2 || options.max_seq_len > kMaxSequenceLength) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_seq_len: must be from 2 to ", kMaxSequenceLength, ", it is ", options.max_seq_len));
  }
  const std::pair<const char*, int64_t> ids[] = {{"pad_token_id", options.pad_id},
                                                 {"eos_token_id", options.eos_id}};
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
  RETURN_IF_ERROR(CheckOptions(options, dataset->tokenizer_->vocab_size()));
  std::vector<std::string> paths = {options.path};
  paths.insert(paths.end(), options.more_paths.begin(), options.more_paths.end());
  ASSIGN_OR_RETURN(dataset->cache_, TokenCache::Open({.paths = std::move(paths),
                                                      .malformed = options.malformed,
                                                      .cache_dir = options.cache_dir,
                                                      .threads = options.threads,
                                                      .progress = options.progress},
                                                     *dataset->tokenizer_));
  const TokenCache& cache = *dataset->cache_;
  if (options.packing) {
    // The stream of all texts, each followed by eos, has one transition fewer than tokens.
    const int64_t transitions = cache.tokens() + cache.documents() - 1;
    dataset->row_length_ = options.max_seq_len;
    dataset->sequences_ = (transitions + options.max_seq_len - 1) / options.max_seq_len;
  } else {
    dataset->row_length_ = options.max_seq_len - 1;
    dataset->sequences_ = cache.documents();
  }
  dataset->options_ = std::move(options);
  return dataset;
}

Dataset::~Dataset() = default;

void Dataset::FillMicrobatch(absl::Span<const int64_t> sequences,
                             const MicrobatchBuffers& out) const {
  const size_t needed = sequences.size() * static_cast<size_t>(row_length_);
  MF_CHECK(out.inputs.size() >= needed && out.targets.size() >= needed && out.mask.size() >= needed)
      << "buffers are smaller than " << needed;
  MF_CHECK(out.document_starts.size() >= needed ||
           (out.document_starts.empty() && !options_.packing))
      << "document_starts is smaller than " << needed;
  for (size_t row = 0; row < sequences.size(); ++row) {
    const int64_t sequence = sequences[row];
    MF_CHECK(sequence >= 0 && sequence < sequences_) << sequence << " of " << sequences_;
    const size_t at = row * static_cast<size_t>(row_length_);
    int32_t* const starts = out.document_starts.empty() ? nullptr : &out.document_starts[at];
    if (options_.packing) {
      FillPacked(sequence, &out.inputs[at], &out.targets[at], &out.mask[at], starts);
    } else {
      FillPadded(sequence, &out.inputs[at], &out.targets[at], &out.mask[at], starts);
    }
  }
}

void Dataset::FillPadded(int64_t document, int64_t* inputs, int64_t* targets, float* mask,
                         int32_t* document_starts) const {
  const int64_t length = std::min(cache_->DocumentLength(document), options_.max_seq_len);
  const int64_t input_count = std::min(length, row_length_);
  const int64_t target_count = std::max<int64_t>(length - 1, 0);
  cache_->CopyIds(document, 0, absl::MakeSpan(inputs, input_count));
  cache_->CopyIds(document, length - target_count, absl::MakeSpan(targets, target_count));
  std::fill(inputs + input_count, inputs + row_length_, options_.pad_id);
  std::fill(targets + target_count, targets + row_length_, options_.pad_id);
  for (int64_t i = 0; i < row_length_; ++i) mask[i] = targets[i] != options_.pad_id ? 1.0f : 0.0f;
  if (document_starts != nullptr) std::fill_n(document_starts, row_length_, 0);
}

void Dataset::FillPacked(int64_t row, int64_t* inputs, int64_t* targets, float* mask,
                         int32_t* document_starts) const {
  const int64_t documents = cache_->documents();
  const int64_t row_begin = row * row_length_;
  // Document d begins in the stream after d texts and as many eos.
  const auto start_of = [&](int64_t d) { return cache_->DocumentOffset(d) + d; };
  // The last document that begins at or before the row.
  int64_t low = 0;
  int64_t high = documents;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (start_of(middle) <= row_begin ? low : high) = middle;
  }
  int64_t t = 0;
  for (int64_t d = low; d < documents && t < row_length_; ++d) {
    const int64_t length = cache_->DocumentLength(d);
    const int64_t from = row_begin + t - start_of(d);  // place in the document; `length` is eos
    const int64_t count = std::min(length + 1 - from, row_length_ - t);
    const int64_t text_inputs = std::min(length - from, count);
    const int64_t text_targets = std::clamp<int64_t>(length - from - 1, 0, count);
    cache_->CopyIds(d, from, absl::MakeSpan(inputs + t, text_inputs));
    cache_->CopyIds(d, std::min(from + 1, length), absl::MakeSpan(targets + t, text_targets));
    std::fill(inputs + t + text_inputs, inputs + t + count, options_.eos_id);
    std::fill(targets + t + text_targets, targets + t + count, options_.eos_id);
    std::fill_n(mask + t, count, 1.0f);
    std::fill_n(document_starts + t, count, static_cast<int32_t>(std::max<int64_t>(t - from, 0)));
    // What follows eos belongs to another document.
    if (from + count == length + 1) {
      targets[t + count - 1] = options_.pad_id;
      mask[t + count - 1] = 0.0f;
    }
    t += count;
  }
  for (; t < row_length_; ++t) {
    inputs[t] = options_.pad_id;
    targets[t] = options_.pad_id;
    mask[t] = 0.0f;
    document_starts[t] = static_cast<int32_t>(t);
  }
}

}  // namespace mindforge
