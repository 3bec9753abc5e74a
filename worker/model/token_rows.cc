#include "worker/model/token_rows.h"

#include <algorithm>

namespace mindforge {
namespace {

int64_t FilledUp(int64_t x) {
  return (x + TokenRows::kMultiple - 1) / TokenRows::kMultiple * TokenRows::kMultiple;
}

// Positions of a row up to its last counted target.
int64_t UsefulLength(const uint8_t* mask, int64_t length) {
  while (length > 0 && mask[length - 1] == 0) --length;
  return length;
}

}  // namespace

void TokenRows::SetRows(const TokenSource& source, bool trim, bool fill) {
  batch = source.batch;
  longest = 0;
  starts.assign(1, 0);
  ids.clear();
  positions.clear();
  rows.clear();
  first_key.clear();
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t at = row * source.length;
    const int64_t length = trim ? UsefulLength(source.mask + at, source.length) : source.length;
    rows.insert(rows.end(), length, static_cast<int32_t>(row));
    ids.insert(ids.end(), source.ids + at, source.ids + at + length);
    for (int64_t i = 0; i < length; ++i) {
      positions.push_back(static_cast<int32_t>(i));
      if (source.documents == nullptr) continue;
      const bool same = i > 0 && source.documents[at + i] == source.documents[at + i - 1];
      first_key.push_back(same ? first_key.back() : static_cast<int32_t>(i));
    }
    starts.push_back(starts.back() + length);
    longest = std::max(longest, length);
  }
  tokens = starts.back();
  size = fill ? FilledUp(tokens) : tokens;
  most = FilledUp(batch * source.length);
  ids.resize(size, 0);
  positions.resize(size, 0);
  rows.resize(size, 0);
  if (source.documents != nullptr) first_key.resize(size, 0);
}

void TokenRows::SetTraining(const TokenSource& source, bool trim, bool fill) {
  SetRows(source, trim, fill);
  counted = 0;
  for (int64_t i = 0; i < source.batch * source.length; ++i) counted += source.mask[i] != 0;
  all_logits = FilledUp(counted) >= size;
  const int64_t listed = all_logits ? size : FilledUp(counted);
  logit_rows.clear();
  logit_places.assign(size, -1);
  logit_targets.clear();
  logit_mask.clear();
  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t token = starts[row]; token < starts[row + 1]; ++token) {
      const int64_t at = row * source.length + positions[token];
      const bool counts = source.mask[at] != 0;
      if (!counts && !all_logits) continue;
      logit_places[token] = static_cast<int32_t>(logit_rows.size());
      logit_rows.push_back(static_cast<int32_t>(token));
      logit_targets.push_back(source.targets[at]);
      logit_mask.push_back(counts ? 1 : 0);
    }
  }
  logit_rows.resize(listed, -1);
  logit_targets.resize(listed, 0);
  logit_mask.resize(listed, 0);
}

void TokenRows::SetEvaluation(const TokenSource& source, int64_t keep) {
  SetRows(source, /*trim=*/false, /*fill=*/false);
  counted = 0;
  all_logits = keep == source.length;
  logit_rows.clear();
  logit_places.clear();
  logit_targets.clear();
  logit_mask.clear();
  for (int64_t row = 0; row < batch; ++row) {
    for (int64_t i = starts[row + 1] - keep; i < starts[row + 1]; ++i) {
      logit_rows.push_back(static_cast<int32_t>(i));
    }
  }
}

}  // namespace mindforge
