// How documents become rows for training.
//
//   pad     one document a row, cut and padded to L ids: L-1 inputs and their targets, as MiniMind2
//           lays out texts. A text between bos and eos, and a conversation, have L inputs, the last
//           without a target, as MiniMind-3 lays them out (a mixture's balance loss sees it).
//   packed  all documents one after the other, cut into rows of L+1 ids that share one id with the
//           next row, so that every id but a document's first is a target once; the last row is
//           padded. A text is followed by eos; a conversation ends as its template ends it.
//
// It does not know where the ids come from (token_cache.h) or in which order rows train (order.h).
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "worker/data/answer_mask.h"
#include "worker/data/token_cache.h"

namespace mindforge {

// Where a microbatch goes: `rows * row_length()` elements each, row-major. `document_starts` may be
// empty in pad mode; elsewhere it holds, for each position, the position in its row where its
// document begins (attention of position t covers document_starts[t] … t).
struct MicrobatchBuffers {
  absl::Span<int64_t> inputs;
  absl::Span<int64_t> targets;
  absl::Span<float> mask;  // 1: the target counts
  absl::Span<int32_t> document_starts;
};

struct RowOptions {
  int64_t max_seq_len = 512;  // L
  bool packing = false;
  bool add_bos_eos = false;             // around each document
  const AnswerMask* answers = nullptr;  // documents are conversations: only these are targets
  int64_t pad_id = 0;
  int64_t bos_id = 1;
  int64_t eos_id = 2;
};

// Immutable, safe from any thread. Borrows the cache and the mask.
class RowLayout {
 public:
  RowLayout(const TokenCache& cache, const RowOptions& options);

  int64_t rows() const { return rows_; }
  // Positions in a row of inputs.
  int64_t row_length() const { return row_length_; }

  // Fills one row; `out` are its own row_length() elements. REQUIRES: 0 <= row < rows(); packed:
  // document_starts is not empty. A target in another document than its input, or beyond the last
  // document, has mask 0.
  void Fill(int64_t row, const MicrobatchBuffers& out) const;

 private:
  void FillPadded(int64_t document, const MicrobatchBuffers& out) const;
  void FillPacked(int64_t row, const MicrobatchBuffers& out) const;
  // The document's ids with what stands around them: `out` is [begin, begin + out.size()).
  void CopyFramed(int64_t document, int64_t ids, int64_t begin, absl::Span<int64_t> out) const;
  // Unmasks the targets that are no part of an answer. `out`: positions from `from` in the
  // document.
  void MaskAnswers(int64_t document, int64_t ids, int64_t from, absl::Span<float> mask) const;

  const TokenCache& cache_;
  const RowOptions options_;
  const int64_t before_;  // ids that stand before a document's own: bos
  const int64_t after_;   // and after them: eos
  int64_t row_length_ = 0;
  int64_t rows_ = 0;
};

}  // namespace mindforge
