// Words already merged, in a table of fixed size: a newcomer takes the place of whoever sits there.
// One thread at a time. It does not know what the ids mean.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "xxhash.h"

namespace mindforge {

class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 29;
  static constexpr size_t kMaxIds = 8;

  WordCache() : entries_(kEntries) {}

  // Slot for `word`. REQUIRES: at most kMaxWordBytes bytes.
  size_t SlotOf(std::string_view word) const {
    return XXH3_64bits(word.data(), word.size()) & (kEntries - 1);
  }

  // Appends the ids when the word is in its slot; false otherwise.
  bool AppendIfFound(size_t slot, std::string_view word, std::vector<int32_t>* ids) const {
    const Entry& entry = entries_[slot];
    if (entry.word_bytes != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) {
      return false;
    }
    ids->insert(ids->end(), entry.ids, entry.ids + entry.id_count);
    return true;
  }

  void Put(size_t slot, std::string_view word, const int32_t* ids, size_t count) {
    if (count > kMaxIds) return;
    Entry& entry = entries_[slot];
    entry.word_bytes = static_cast<uint8_t>(word.size());
    entry.id_count = static_cast<uint8_t>(count);
    std::memcpy(entry.word, word.data(), word.size());
    std::memcpy(entry.ids, ids, count * sizeof(ids[0]));
  }

 private:
  static constexpr size_t kEntries = size_t{1} << 14;  // 1 MiB

  struct alignas(64) Entry {
    uint8_t word_bytes = 0;  // 0: empty
    uint8_t id_count = 0;
    char word[kMaxWordBytes] = {};
    int32_t ids[kMaxIds] = {};
  };
  static_assert(sizeof(Entry) == 64);

  std::vector<Entry> entries_;
};

}  // namespace mindforge
