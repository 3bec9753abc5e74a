// Which rows of a dataset train and which are held out for validation: a pure function of (rows,
// share, seed), so that every rank and every later run draws the same line. It does not know what a
// row holds, nor in which order rows train (worker/data/order.h).
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "worker/data/order.h"

namespace mindforge {

// Immutable, safe from any thread.
class RowSplit {
 public:
  // Holds out the share, rounded to whole rows but at least one when it is above 0.
  // INVALID_ARGUMENT (data.validation_fraction): nothing would be left to train on.
  static absl::StatusOr<RowSplit> Make(int64_t rows, double share, uint64_t seed);

  int64_t training_rows() const { return rows_ - held_out_; }
  int64_t held_out_rows() const { return held_out_; }

  // The dataset's row of training row `i`; the same number when none is held out.
  // REQUIRES: 0 <= i < training_rows().
  int64_t TrainingRow(int64_t i) const { return order_ ? order_->At(held_out_ + i) : i; }
  // REQUIRES: 0 <= i < held_out_rows().
  int64_t HeldOutRow(int64_t i) const { return order_->At(i); }

 private:
  RowSplit(int64_t rows, int64_t held_out, uint64_t seed);

  int64_t rows_;
  int64_t held_out_;
  std::optional<Permutation> order_;  // its first held_out_ rows are held out
};

}  // namespace mindforge
