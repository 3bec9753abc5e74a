#include "worker/tokenizer/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <queue>
#include <utility>

namespace mindforge {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
constexpr size_t kShortWord = 128;  // beyond it a heap beats scanning

size_t HashPair(int32_t left, int32_t right, int shift) {
  const uint64_t key =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  return static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> shift);
}

// A symbol of a long word, in a doubly linked list.
struct Symbol {
  int32_t id;
  int32_t previous;
  int32_t next;
  bool removed = false;
};

// A merge that may be applied at `position`; stale when the symbols there have changed.
struct Candidate {
  uint32_t rank;
  int32_t position;

  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

BpeModel::BpeModel(const std::array<int32_t, 256>& byte_ids, std::vector<BpeMerge> merges)
    : byte_ids_(byte_ids), merges_(std::move(merges)) {
  const size_t size = std::bit_ceil(std::max<size_t>(merges_.size() * 2, 16));
  shift_ = 64 - std::countr_zero(size);
  slots_.resize(size);
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const BpeMerge& merge = merges_[rank];
    size_t i = HashPair(merge.left, merge.right, shift_);
    while (slots_[i].left >= 0 &&
           (slots_[i].left != merge.left || slots_[i].right != merge.right)) {
      i = (i + 1) & (size - 1);
    }
    slots_[i] = {merge.left, merge.right, static_cast<uint32_t>(rank)};
  }
}

uint32_t BpeModel::RankOf(int32_t left, int32_t right) const {
  const size_t mask = slots_.size() - 1;
  for (size_t i = HashPair(left, right, shift_);; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.left == left && slot.right == right) return slot.rank;
    if (slot.left < 0) return kNoRank;
  }
}

void BpeModel::EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
  if (word.size() <= kShortWord) {
    MergeShort(word, ids);
  } else {
    MergeLong(word, ids);
  }
}

void BpeModel::MergeShort(std::string_view word, std::vector<int32_t>* ids) const {
  int32_t symbols[kShortWord];
  uint32_t ranks[kShortWord];  // of symbols i and i + 1
  size_t n = word.size();
  for (size_t i = 0; i < n; ++i) symbols[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = RankOf(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    symbols[best] = merges_[ranks[best]].merged;
    std::memmove(symbols + best + 1, symbols + best + 2, (n - best - 2) * sizeof(symbols[0]));
    --n;
    if (best + 1 < n) {
      std::memmove(ranks + best + 1, ranks + best + 2, (n - best - 2) * sizeof(ranks[0]));
      ranks[best] = RankOf(symbols[best], symbols[best + 1]);
    }
    if (best > 0) ranks[best - 1] = RankOf(symbols[best - 1], symbols[best]);
  }
  ids->insert(ids->end(), symbols, symbols + n);
}

void BpeModel::MergeLong(std::string_view word, std::vector<int32_t>* ids) const {
  const auto n = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  for (int32_t i = 0; i < n; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(word[i])], i - 1, i + 1 < n ? i + 1 : -1};
  }
  const auto offer = [&](int32_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const uint32_t rank = RankOf(symbols[at].id, symbols[symbols[at].next].id);
    if (rank != kNoRank) queue.push({rank, at});
  };
  for (int32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& symbol = symbols[top.position];
    if (symbol.removed || symbol.next < 0) continue;
    const Symbol& next = symbols[symbol.next];
    const BpeMerge& merge = merges_[top.rank];
    if (symbol.id != merge.left || next.id != merge.right) continue;
    symbol.id = merge.merged;
    symbols[symbol.next].removed = true;
    symbol.next = next.next;
    if (symbol.next >= 0) symbols[symbol.next].previous = top.position;
    offer(symbol.previous);
    offer(top.position);
  }
  for (int32_t i = 0; i >= 0 && i < n; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace mindforge
