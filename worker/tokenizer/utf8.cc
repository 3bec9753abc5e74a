#include "worker/tokenizer/utf8.h"

#include <cstring>

#include "common/utf8.h"

namespace mindforge {
namespace {

#include "worker/tokenizer/unicode_classes.inc"

inline CharClass Lookup(uint32_t c) {
  return static_cast<CharClass>(
      kClassBits[kBlockOfCodePoint[c >> 8]][(c & 0xFF) >> 5] >> (2 * (c & 31)) & 3);
}

// Length of the contraction at the start, 0 when there is none.
size_t ContractionLength(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const char a = text[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (text.size() < 3) return 0;
  const char b = text[2];
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

}  // namespace

CharClass ClassOf(uint32_t code_point) { return Lookup(code_point); }

void AppendUtf8(uint32_t c, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | (c >> shift & 0x3F)));
  };
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool IsValidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (i + 8 <= text.size()) {
      uint64_t word;
      std::memcpy(&word, text.data() + i, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const Utf8Step step = Utf8Sequence(text.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) return false;
    i += step.bytes;
  }
  return true;
}

size_t FirstWordLength(std::string_view text) {
  if (const size_t contraction = ContractionLength(text)) return contraction;
  const auto* const begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = begin + text.size();
  const unsigned char* p = begin;
  CharClass kind = Lookup(DecodeUtf8(p));
  if (*begin == ' ' && p < end) {
    const unsigned char* next = p;
    const CharClass next_kind = Lookup(DecodeUtf8(next));
    if (next_kind != CharClass::kSpace) {
      kind = next_kind;
      p = next;
    }
  }
  const unsigned char* last = begin;  // start of the run's last character
  while (p < end) {
    const unsigned char* next = p;
    if (Lookup(DecodeUtf8(next)) != kind) break;
    last = p;
    p = next;
  }
  // \s+(?!\S) gives a space back to the word that follows, unless it is the only one.
  if (kind == CharClass::kSpace && p < end && last > begin) p = last;
  return static_cast<size_t>(p - begin);
}

}  // namespace mindforge
