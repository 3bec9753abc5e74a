// A microbatch as the table's model computes it: each row without what comes after its last counted
// target (no gradient depends on it), rows end to end, the whole filled up to a multiple of 64 so
// that the matrix library meets few shapes. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

namespace mindforge {

// What goes in; [batch, length] arrays.
struct TokenSource {
  int64_t batch = 0;
  int64_t length = 0;
  const int64_t* ids = nullptr;
  const int64_t* targets = nullptr;    // null: no loss
  const uint8_t* mask = nullptr;       // of targets
  const int32_t* documents = nullptr;  // null: each row is one document
};

// The vectors keep their memory from one microbatch to the next.
struct TokenRows {
  static constexpr int64_t kMultiple = 64;

  int64_t batch = 0;
  int64_t longest = 0;             // row
  int64_t tokens = 0;              // without the filling
  int64_t size = 0;                // with it
  int64_t most = 0;                // size of the same rows without a masked target
  int64_t counted = 0;             // targets
  std::vector<int64_t> starts;     // [batch + 1]
  std::vector<int64_t> ids;        // [size], filling 0
  std::vector<int32_t> positions;  // [size], in the row
  std::vector<int32_t> rows;       // [size], filling 0
  std::vector<int32_t> first_key;  // [size] with documents, else empty
  // Rows whose logits are needed: all of `size` in order when `all_logits`, else the `listed` ones
  // in logit_rows, filled up with -1. logit_places has each row's place in that list, -1 for those
  // that are not in it; only for training.
  bool all_logits = false;
  int64_t listed = 0;
  std::vector<int32_t> logit_rows;     // [listed], empty when all_logits
  std::vector<int32_t> logit_places;   // [size], empty when all_logits
  std::vector<int64_t> logit_targets;  // [listed], only for training
  std::vector<uint8_t> logit_mask;     // the same; 0 for filling and uncounted targets

  // For training. Not `trim`: rows keep their length (the balance loss counts every token); not
  // `fill`: nothing is filled up (the plain attention needs a rectangle).
  void SetTraining(const TokenSource& source, bool trim, bool fill);
  // For evaluation: the logits of each row's last `keep` positions.
  void SetEvaluation(const TokenSource& source, int64_t keep);

 private:
  void SetRows(const TokenSource& source, bool trim, bool fill);
  void SetRow(const TokenSource& source, int64_t row);
};

}  // namespace mindforge
