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
  // Rows whose logits are needed: all of `size` in order when `all_logits`, else those listed,
  // filled up with -1; and each row's place in the list, -1 for those not listed.
  bool all_logits = false;
  std::vector<int32_t> logit_rows;
  std::vector<int32_t> logit_places;   // [size], empty for evaluation
  std::vector<int64_t> logit_targets;  // [size or listed]
  std::vector<uint8_t> logit_mask;     // 0 for filling and uncounted targets

  // For training. Not `trim`: rows keep their length (the balance loss counts every token); not
  // `fill`: nothing is filled up (the plain attention needs a rectangle).
  void SetTraining(const TokenSource& source, bool trim, bool fill);
  // For evaluation: the logits of each row's last `keep` positions.
  void SetEvaluation(const TokenSource& source, int64_t keep);

 private:
  void SetRows(const TokenSource& source, bool trim, bool fill);
};

}  // namespace mindforge
