#include "worker/model/token_rows.h"

#include <algorithm>
#include <numeric>

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
  most = FilledUp(batch * source.length);
  starts.assign(1, 0);
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t length =
        trim ? UsefulLength(source.mask + row * source.length, source.length) : source.length;
    starts.push_back(starts.back() + length);
    longest = std::max(longest, length);
  }
  tokens = starts.back();
  size = fill ? FilledUp(tokens) : tokens;
  ids.resize(size);
  positions.resize(size);
  rows.resize(size);
  first_key.resize(source.documents == nullptr ? 0 : size);
  for (int64_t row = 0; row < batch; ++row) SetRow(source, row);
  std::fill(ids.begin() + tokens, ids.end(), 0);
  std::fill(positions.begin() + tokens, positions.end(), 0);
  std::fill(rows.begin() + tokens, rows.end(), 0);
  if (source.documents != nullptr) std::fill(first_key.begin() + tokens, first_key.end(), 0);
}

void TokenRows::SetRow(const TokenSource& source, int64_t row) {
  const int64_t start = starts[row];
  const int64_t length = starts[row + 1] - start;
  const int64_t at = row * source.length;
  std::copy_n(source.ids + at, length, ids.begin() + start);
  std::iota(positions.begin() + start, positions.begin() + start + length, 0);
  std::fill_n(rows.begin() + start, length, static_cast<int32_t>(row));
  if (source.documents == nullptr) return;
  for (int64_t i = 0; i < length; ++i) {
    const bool same = i > 0 && source.documents[at + i] == source.documents[at + i - 1];
    first_key[start + i] = same ? first_key[start + i - 1] : static_cast<int32_t>(i);
  }
}

void TokenRows::SetTraining(const TokenSource& source, bool trim, bool fill) {
  SetRows(source, trim, fill);
  counted = 0;
  for (int64_t i = 0; i < source.batch * source.length; ++i) counted += source.mask[i] != 0;
  all_logits = FilledUp(counted) >= size;
  listed = all_logits ? size : FilledUp(counted);
  logit_targets.assign(listed, 0);
  logit_mask.assign(listed, 0);
  if (all_logits) {
    logit_rows.clear();
    logit_places.clear();
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t at = row * source.length;
      const int64_t length = starts[row + 1] - starts[row];
      std::copy_n(source.targets + at, length, logit_targets.begin() + starts[row]);
      std::transform(source.mask + at, source.mask + at + length, logit_mask.begin() + starts[row],
                     [](uint8_t mask) { return static_cast<uint8_t>(mask != 0); });
    }
    return;
  }
  logit_rows.assign(listed, -1);
  logit_places.assign(size, -1);
  int64_t place = 0;
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t at = rows[token] * source.length + positions[token];
    if (source.mask[at] == 0) continue;
    logit_places[token] = static_cast<int32_t>(place);
    logit_rows[place] = static_cast<int32_t>(token);
    logit_targets[place] = source.targets[at];
    logit_mask[place++] = 1;
  }
}

void TokenRows::SetEvaluation(const TokenSource& source, int64_t keep) {
  SetRows(source, /*trim=*/false, /*fill=*/false);
  counted = 0;
  all_logits = keep == source.length;
  listed = batch * keep;
  logit_rows.clear();
  logit_places.clear();
  logit_targets.clear();
  logit_mask.clear();
  for (int64_t row = 0; row < batch && !all_logits; ++row) {
    for (int64_t i = starts[row + 1] - keep; i < starts[row + 1]; ++i) {
      logit_rows.push_back(static_cast<int32_t>(i));
    }
  }
}

}  // namespace mindforge
