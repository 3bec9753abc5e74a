#include "worker/data/text_guess.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/utf8.h"
#include "nlohmann/json.hpp"

namespace mindforge {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kUtf8Bom = "\xEF\xBB\xBF";

// Bytes that a kind of file begins with. Longer ones stand before what they begin with.
constexpr std::pair<std::string_view, std::string_view> kMagics[] = {
    {"\xFF\xFE\0\0"sv, "UTF-32"},
    {"\0\0\xFE\xFF"sv, "UTF-32"},
    {"\xFF\xFE"sv, "UTF-16"},
    {"\xFE\xFF"sv, "UTF-16"},
    {"\x1F\x8B"sv, "gzip"},
    {"\x28\xB5\x2F\xFD"sv, "zstd"},
    {"\xFD"
     "7zXZ\0"sv,
     "xz"},
    {"PK\x03\x04"sv, "zip"},
    {"PAR1"sv, "Parquet"},
    {"ARROW1"sv, "Arrow"},
    {"version https://git-lfs"sv, kGitLfsPointer},
    {"<!DOCTYPE"sv, "an HTML page"},
    {"<!doctype"sv, "an HTML page"},
    {"<html"sv, "an HTML page"},
};

uint8_t At(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// A character below U+0100 in UTF-16 or UTF-32 without a mark in front.
std::string_view GuessWideText(std::string_view text) {
  if (text.size() < 4) return "";
  const auto zero = [&](size_t i) { return text[i] == '\0'; };
  if (zero(0) && zero(1) && zero(2) && !zero(3)) return "UTF-32";
  if (!zero(0) && zero(1) && zero(2) && zero(3)) return "UTF-32";
  if (zero(0) && !zero(1) && zero(2)) return "UTF-16";
  if (!zero(0) && zero(1) && !zero(2)) return "UTF-16";
  return "";
}

std::string_view WithoutSpace(std::string_view text) {
  const size_t at = text.find_first_not_of(" \t\r\n");
  return at == std::string_view::npos ? "" : text.substr(at);
}

// Whether a bracket or a text that the line opens is still open at its end.
bool IsUnclosed(std::string_view line) {
  int depth = 0;
  bool in_text = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"') in_text = !in_text;
    if (in_text) {
      i += line[i] == '\\';
    } else {
      depth += line[i] == '[' || line[i] == '{';
      depth -= line[i] == ']' || line[i] == '}';
    }
  }
  return in_text || depth > 0;
}

// "[" and then something that a list of texts or objects goes on with, in a line that is JSON or
// goes on in the next: a line of prose may begin with a bracket.
bool BeginsAsJsonArray(std::string_view text) {
  text = WithoutSpace(text);
  if (!text.starts_with("[")) return false;
  const std::string_view line = text.substr(0, text.find('\n'));
  if (!IsUnclosed(line) && !nlohmann::json::accept(line)) return false;
  text = WithoutSpace(text.substr(1));
  if (text.starts_with("{")) {
    text = WithoutSpace(text.substr(1));
    return text.empty() || text.front() == '"' || text.front() == '}';
  }
  if (!text.starts_with("\"")) return false;
  size_t end = 1;
  while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
  if (end >= text.size()) return true;  // a text longer than what is looked at
  text = WithoutSpace(text.substr(end + 1));
  return text.starts_with(",") || text.starts_with("]");
}

// How much of a text is what. A pair is two bytes that GBK and Shift-JIS make one character of.
struct Census {
  int64_t utf8 = 0;        // whole characters above U+007F
  int64_t not_utf8 = 0;    // parts that are none
  int64_t pairs = 0;       // of GBK
  int64_t common = 0;      // of these, in GB 2312, where almost all that people write lies
  int64_t kana = 0;        // of these, where Shift-JIS has its kana
  bool all_pairs = true;   // no byte above 0x7F is left over
  bool all_1252 = true;    // each byte above 0x7F is a character there, few of them neighbours
  int64_t neighbours = 0;  // bytes above 0x7F behind another one
  int64_t high = 0;        // bytes above 0x7F
};

void CountPairs(std::string_view text, Census& census) {
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t lead = At(text, i);
    if (lead < 0x80) continue;
    const uint8_t trail = i + 1 < text.size() ? At(text, i + 1) : 0;
    if (lead == 0x80 || lead == 0xFF || trail < 0x40 || trail == 0x7F || trail == 0xFF) {
      census.all_pairs = false;
      continue;
    }
    ++census.pairs;
    const bool assigned = (lead >= 0xA1 && lead <= 0xA9) || (lead >= 0xB0 && lead <= 0xF7);
    census.common += assigned && trail >= 0xA1;
    census.kana += lead == 0x82 || lead == 0x83;
    ++i;
  }
}

Census CountOf(std::string_view text) {
  Census census;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = Utf8Sequence(text.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) ++census.not_utf8;
    if (step.kind == Utf8Step::Kind::kCharacter && step.bytes > 1) ++census.utf8;
    i += step.bytes;
  }
  CountPairs(text, census);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = At(text, i);
    if (byte < 0x80) continue;
    ++census.high;
    census.neighbours += i > 0 && At(text, i - 1) >= 0x80;
    for (const uint8_t unused : {0x81, 0x8D, 0x8F, 0x90, 0x9D, 0xFE, 0xFF}) {
      if (byte == unused) census.all_1252 = false;
    }
  }
  return census;
}

}  // namespace

std::optional<size_t> FirstNonUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = Utf8Sequence(text.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) return i;
    i += step.bytes;
  }
  return std::nullopt;
}

std::string_view GuessFormat(std::string_view beginning) {
  for (const auto& [magic, name] : kMagics) {
    if (beginning.starts_with(magic)) return name;
  }
  if (beginning.starts_with("BZh") && beginning.substr(0, 10).ends_with("1AY&SY")) return "bzip2";
  if (beginning.size() > 262 && beginning.substr(257, 5) == "ustar") return "tar";
  if (const std::string_view wide = GuessWideText(beginning); !wide.empty()) return wide;
  if (beginning.starts_with(kUtf8Bom)) beginning.remove_prefix(kUtf8Bom.size());
  return BeginsAsJsonArray(beginning) ? kJsonArray : "";
}

std::string_view GuessEncoding(std::string_view text) {
  const Census census = CountOf(text);
  if (census.not_utf8 == 0) return "";
  if (census.utf8 > census.not_utf8) return "damaged UTF-8";
  if (census.all_pairs && census.kana * 2 > census.pairs) return "Shift-JIS";
  if (census.all_pairs && census.common * 2 > census.pairs) return "GBK";
  if (census.all_1252 && census.neighbours * 2 <= census.high) return "Windows-1252";
  if (census.all_pairs) return "GBK";
  return "";
}

std::string NotUtf8InWords(std::string_view text, size_t offset, std::string_view format) {
  // A file of bytes that mean something else says more than the bytes of one of its lines.
  const std::string_view guess = format.empty() ? GuessEncoding(text) : format;
  return absl::StrFormat(
      "not UTF-8%s at offset %d, byte 0x%02X",
      guess.empty() ? "" : absl::StrCat(" (looks like ", std::string(guess), ")"), offset,
      At(text, offset));
}

}  // namespace mindforge
