#include "worker/train/microbatch_loader.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <string>
#include <utility>

#include "worker/train/failure.h"

namespace mindforge {
namespace {

template <typename T>
absl::Span<T> SpanOf(const at::Tensor& tensor, int64_t elements) {
  if (!tensor.defined()) return {};
  return absl::MakeSpan(static_cast<T*>(tensor.mutable_data_ptr()), static_cast<size_t>(elements));
}

}  // namespace

MicrobatchLoader::MicrobatchLoader(const Dataset& dataset, const RowSplit& split,
                                   const EpochPlan& plan, int64_t microbatch_size,
                                   std::function<void()> on_load)
    : dataset_(dataset),
      split_(split),
      plan_(plan),
      microbatch_size_(microbatch_size),
      on_load_(std::move(on_load)) {
  const int64_t length = dataset.row_length();
  input_ids_ = at::empty({microbatch_size, length}, at::kLong);
  targets_ = at::empty({microbatch_size, length}, at::kLong);
  mask_ = at::empty({microbatch_size, length}, at::kByte);
  if (dataset.packing()) document_starts_ = at::empty({microbatch_size, length}, at::kInt);
  mask_values_.resize(static_cast<size_t>(microbatch_size * length));
}

absl::StatusOr<MicrobatchLoader::Loaded> MicrobatchLoader::Load(const StepPosition& position,
                                                                int64_t microbatch) {
  std::vector<int64_t> rows = plan_.SequencesOf(position.epoch, position.step_in_epoch, microbatch);
  for (int64_t& row : rows) row = split_.TrainingRow(row);
  return LoadRows(rows);
}

int64_t MicrobatchLoader::held_out_microbatches() const {
  return (split_.held_out_rows() + microbatch_size_ - 1) / microbatch_size_;
}

absl::StatusOr<MicrobatchLoader::Loaded> MicrobatchLoader::LoadHeldOut(int64_t microbatch) {
  std::vector<int64_t> rows;
  const int64_t end = std::min(split_.held_out_rows(), (microbatch + 1) * microbatch_size_);
  for (int64_t i = microbatch * microbatch_size_; i < end; ++i) {
    rows.push_back(split_.HeldOutRow(i));
  }
  return LoadRows(rows);
}

absl::StatusOr<MicrobatchLoader::Loaded> MicrobatchLoader::LoadRows(
    const std::vector<int64_t>& sequences) {
  if (on_load_) on_load_();
  const auto rows = static_cast<int64_t>(sequences.size());
  const int64_t elements = rows * dataset_.row_length();
  const absl::Status filled = dataset_.FillMicrobatch(
      sequences, {.inputs = SpanOf<int64_t>(input_ids_, elements),
                  .targets = SpanOf<int64_t>(targets_, elements),
                  .mask = absl::MakeSpan(mask_values_.data(), static_cast<size_t>(elements)),
                  .document_starts = SpanOf<int32_t>(document_starts_, elements)});
  if (!filled.ok()) return WorkerUnfit(std::string(filled.message()));
  Loaded loaded{.sequences = rows};
  const absl::Span<uint8_t> mask = SpanOf<uint8_t>(mask_, elements);
  for (int64_t i = 0; i < elements; ++i) {
    mask[i] = mask_values_[i] != 0;
    loaded.tokens += mask[i];
  }
  loaded.microbatch = {.input_ids = input_ids_.narrow(0, 0, rows),
                       .targets = targets_.narrow(0, 0, rows),
                       .mask = mask_.narrow(0, 0, rows)};
  if (document_starts_.defined()) {
    // Where a document starts tells it apart from the others of its row.
    loaded.microbatch.document_ids = document_starts_.narrow(0, 0, rows);
  }
  return loaded;
}

}  // namespace mindforge
