// The merges of a byte-level BPE: bytes of one word to ids. It does not know how text is cut into
// words, or added tokens.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace mindforge {

struct BpeMerge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t merged = 0;
};

// Immutable after construction, safe from any thread.
class BpeModel {
 public:
  // `merges` in order of rank; of equal pairs the last counts, as in the `tokenizers` package.
  BpeModel(const std::array<int32_t, 256>& byte_ids, std::vector<BpeMerge> merges);

  // Applies merges lowest rank first, leftmost first, and appends the ids.
  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Slot {
    int32_t left = -1;
    int32_t right = -1;
    uint32_t rank = 0;
  };

  // kNoRank when the two do not merge.
  uint32_t RankOf(int32_t left, int32_t right) const;
  void MergeShort(std::string_view word, std::vector<int32_t>* ids) const;
  void MergeLong(std::string_view word, std::vector<int32_t>* ids) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<BpeMerge> merges_;
  std::vector<Slot> slots_;  // open addressing, at most half full
  int shift_ = 0;
};

}  // namespace mindforge
