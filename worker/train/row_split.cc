#include "worker/train/row_split.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error_details.h"

namespace mindforge {
namespace {

// Epochs count from 0: no epoch's order is that of the split.
constexpr int64_t kNoEpoch = -1;

}  // namespace

RowSplit::RowSplit(int64_t rows, int64_t held_out, uint64_t seed)
    : rows_(rows), held_out_(held_out) {
  if (held_out_ > 0) order_.emplace(rows_, seed, kNoEpoch);
}

absl::StatusOr<RowSplit> RowSplit::Make(int64_t rows, double share, uint64_t seed) {
  if (!(share >= 0 && share <= 0.5)) {
    return InvalidArgument("data.validation_fraction",
                           absl::StrCat("is ", share, ", must be from 0 to 0.5"));
  }
  if (share == 0) return RowSplit(rows, 0, seed);
  const int64_t held_out = std::max<int64_t>(1, std::llround(share * static_cast<double>(rows)));
  if (held_out >= rows) {
    return InvalidArgument("data.validation_fraction",
                           absl::StrCat("is ", share, " of ", rows, rows == 1 ? " row" : " rows",
                                        ": no row would be left to train on; give more data or 0"));
  }
  return RowSplit(rows, held_out, seed);
}

}  // namespace mindforge
