#include "worker/data/row_layout.h"

#include <algorithm>
#include <vector>

namespace mindforge {

RowLayout::RowLayout(const TokenCache& cache, const RowOptions& options)
    : cache_(cache),
      options_(options),
      before_(options.add_bos_eos ? 1 : 0),
      after_(options.add_bos_eos || (options.packing && options.answers == nullptr) ? 1 : 0) {
  if (options.packing) {
    // The stream of all documents has one transition fewer than ids.
    const int64_t ids = cache.tokens() + cache.documents() * (before_ + after_);
    row_length_ = options.max_seq_len;
    rows_ = (ids - 1 + options.max_seq_len - 1) / options.max_seq_len;
  } else {
    const bool whole = options.add_bos_eos || options.answers != nullptr;
    row_length_ = options.max_seq_len - (whole ? 0 : 1);
    rows_ = cache.documents();
  }
}

void RowLayout::Fill(int64_t row, const MicrobatchBuffers& out) const {
  if (options_.packing) {
    FillPacked(row, out);
  } else {
    FillPadded(row, out);
  }
}

void RowLayout::CopyFramed(int64_t document, int64_t ids, int64_t begin,
                           absl::Span<int64_t> out) const {
  const auto size = static_cast<int64_t>(out.size());
  const int64_t end = begin + size;
  const int64_t first = std::max<int64_t>(begin, before_);
  const int64_t last = std::min(end, before_ + ids);
  if (begin < before_ && size > 0) out[0] = options_.bos_id;
  if (first < last)
    cache_.CopyIds(document, first - before_, out.subspan(first - begin, last - first));
  if (end > before_ + ids && size > 0) out[size - 1] = options_.eos_id;
}

void RowLayout::MaskAnswers(int64_t document, int64_t ids, int64_t from,
                            absl::Span<float> mask) const {
  std::vector<int64_t> all(static_cast<size_t>(ids));
  cache_.CopyIds(document, 0, absl::MakeSpan(all));
  std::vector<uint8_t> answers(all.size());
  options_.answers->Mark(all, absl::MakeSpan(answers));
  for (size_t t = 0; t < mask.size(); ++t) {
    const size_t target = static_cast<size_t>(from) + t + 1;
    mask[t] = target < answers.size() && answers[target] != 0 ? 1.0f : 0.0f;
  }
}

void RowLayout::FillPadded(int64_t document, const MicrobatchBuffers& out) const {
  const int64_t ids =
      std::min(cache_.DocumentLength(document), options_.max_seq_len - before_ - after_);
  const int64_t length = ids + before_ + after_;
  const int64_t inputs = std::min(length, row_length_);
  const int64_t targets = std::max<int64_t>(length - 1, 0);
  CopyFramed(document, ids, 0, out.inputs.subspan(0, inputs));
  CopyFramed(document, ids, length - targets, out.targets.subspan(0, targets));
  std::fill(out.inputs.begin() + inputs, out.inputs.end(), options_.pad_id);
  std::fill(out.targets.begin() + targets, out.targets.end(), options_.pad_id);
  if (options_.answers != nullptr) {
    MaskAnswers(document, ids, 0, out.mask);
  } else {
    for (int64_t t = 0; t < row_length_; ++t) {
      out.mask[t] = out.targets[t] != options_.pad_id ? 1.0f : 0.0f;
    }
  }
  std::fill(out.document_starts.begin(), out.document_starts.end(), 0);
}

void RowLayout::FillPacked(int64_t row, const MicrobatchBuffers& out) const {
  const int64_t documents = cache_.documents();
  const int64_t row_begin = row * row_length_;
  // Document d begins in the stream after d documents and what stands around them.
  const auto start_of = [&](int64_t d) {
    return cache_.DocumentOffset(d) + d * (before_ + after_);
  };
  // The last document that begins at or before the row.
  int64_t low = 0;
  int64_t high = documents;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (start_of(middle) <= row_begin ? low : high) = middle;
  }
  int64_t t = 0;
  for (int64_t d = low; d < documents && t < row_length_; ++d) {
    const int64_t ids = cache_.DocumentLength(d);
    const int64_t length = ids + before_ + after_;
    const int64_t from = row_begin + t - start_of(d);  // place in the document
    const int64_t count = std::min(length - from, row_length_ - t);
    if (count <= 0) continue;
    const int64_t targets = std::min(count, length - from - 1);  // the last id has none
    CopyFramed(d, ids, from, out.inputs.subspan(t, count));
    CopyFramed(d, ids, from + 1, out.targets.subspan(t, targets));
    if (options_.answers != nullptr) {
      MaskAnswers(d, ids, from, out.mask.subspan(t, targets));
    } else {
      std::fill_n(out.mask.begin() + t, targets, 1.0f);
    }
    if (targets < count) {
      // What follows belongs to another document.
      out.targets[t + targets] = options_.pad_id;
      out.mask[t + targets] = 0.0f;
    }
    std::fill_n(out.document_starts.begin() + t, count,
                static_cast<int32_t>(std::max<int64_t>(t - from, 0)));
    t += count;
  }
  for (; t < row_length_; ++t) {
    out.inputs[t] = options_.pad_id;
    out.targets[t] = options_.pad_id;
    out.mask[t] = 0.0f;
    out.document_starts[t] = static_cast<int32_t>(t);
  }
}

}  // namespace mindforge
