#include "worker/tokenizer/python_json.h"

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/tokenizer/python_float.h"
#include "worker/tokenizer/utf8.h"

namespace mindforge {
namespace {

constexpr int kMaxDepth = 256;

void AppendQuoted(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      case '\f':
        out->append("\\f");
        break;
      case '\b':
        out->append("\\b");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(out, "\\u%04x", static_cast<int>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

// Reads one JSON text from left to right and writes it anew.
class Rewriter {
 public:
  explicit Rewriter(std::string_view text) : text_(text) {}

  absl::StatusOr<std::string> Whole() {
    if (!IsValidUtf8(text_)) return Wrong("it is not UTF-8");
    std::string out;
    RETURN_IF_ERROR(Value(0, &out));
    SkipSpace();
    if (at_ < text_.size()) return Wrong("something follows the value");
    return out;
  }

 private:
  absl::Status Wrong(std::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("is not JSON: ", std::string(what), " at byte ", at_ + 1));
  }

  void SkipSpace() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool Take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  absl::Status Value(int depth, std::string* out) {
    if (depth > kMaxDepth) return Wrong(absl::StrCat("more than ", kMaxDepth, " levels"));
    SkipSpace();
    switch (Peek()) {
      case '{':
        return Object(depth, out);
      case '[':
        return Array(depth, out);
      case '"': {
        std::string value;
        RETURN_IF_ERROR(String(&value));
        AppendQuoted(value, out);
        return absl::OkStatus();
      }
      default:
        break;
    }
    for (const std::string_view word : {"true", "false", "null"}) {
      if (!Take(word)) continue;
      out->append(word);
      return absl::OkStatus();
    }
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      if (text_.substr(at_).starts_with(word)) {
        return Wrong(absl::StrCat(std::string(word), ", which JSON does not have,"));
      }
    }
    return Number(out);
  }

  // A repeated key keeps its first place and its last value.
  absl::Status Object(int depth, std::string* out) {
    ++at_;
    std::vector<std::pair<std::string, std::string>> members;
    absl::flat_hash_map<std::string, size_t> places;
    SkipSpace();
    bool more = !Take("}");
    while (more) {
      SkipSpace();
      if (Peek() != '"') return Wrong("a key in double quotes is missing");
      std::string key;
      RETURN_IF_ERROR(String(&key));
      SkipSpace();
      if (!Take(":")) return Wrong("a colon is missing");
      std::string value;
      RETURN_IF_ERROR(Value(depth + 1, &value));
      const auto [place, is_new] = places.emplace(key, members.size());
      if (is_new) {
        members.emplace_back(std::move(key), std::move(value));
      } else {
        members[place->second].second = std::move(value);
      }
      SkipSpace();
      more = Take(",");
      if (!more && !Take("}")) return Wrong("a comma or } is missing");
    }
    out->push_back('{');
    for (size_t i = 0; i < members.size(); ++i) {
      if (i > 0) out->append(", ");
      AppendQuoted(members[i].first, out);
      absl::StrAppend(out, ": ", members[i].second);
    }
    out->push_back('}');
    return absl::OkStatus();
  }

  absl::Status Array(int depth, std::string* out) {
    ++at_;
    out->push_back('[');
    SkipSpace();
    bool more = !Take("]");
    while (more) {
      RETURN_IF_ERROR(Value(depth + 1, out));
      SkipSpace();
      more = Take(",");
      if (more) out->append(", ");
      if (!more && !Take("]")) return Wrong("a comma or ] is missing");
    }
    out->push_back(']');
    return absl::OkStatus();
  }

  absl::Status String(std::string* out) {
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return absl::OkStatus();
      }
      if (static_cast<unsigned char>(c) < 0x20) return Wrong("a control character in a string");
      if (c != '\\') {
        out->push_back(c);
        continue;
      }
      ++at_;
      RETURN_IF_ERROR(Escape(out));
    }
    return Wrong("a string does not end");
  }

  // `at_` is at the letter, and stays at the escape's last character.
  absl::Status Escape(std::string* out) {
    constexpr std::string_view kLetters = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char letter = Peek();
    if (letter != 'u') {
      const size_t index = letter == '\0' ? kLetters.npos : kLetters.find(letter);
      if (index == kLetters.npos) return Wrong("an unknown escape");
      out->push_back(kMeanings[index]);
      return absl::OkStatus();
    }
    ++at_;
    std::optional<uint32_t> code = FourDigits();
    if (!code) return Wrong("\\u without four hexadecimal digits");
    if (*code >= 0xD800 && *code < 0xDC00 && Take("\\u")) {
      const std::optional<uint32_t> low = FourDigits();
      if (!low || *low < 0xDC00 || *low > 0xDFFF) return Wrong("half of a surrogate pair");
      code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
    }
    if (*code >= 0xD800 && *code <= 0xDFFF) return Wrong("half of a surrogate pair");
    AppendUtf8(*code, out);
    --at_;
    return absl::OkStatus();
  }

  std::optional<uint32_t> FourDigits() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = Peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return std::nullopt;
      value = value << 4 | static_cast<uint32_t>(digit);
    }
    return value;
  }

  bool Digits() {
    const size_t start = at_;
    while (Peek() >= '0' && Peek() <= '9') ++at_;
    return at_ > start;
  }

  absl::Status Number(std::string* out) {
    const size_t start = at_;
    Take("-");
    if (!Take("0") && !Digits()) return Wrong("a value is missing");
    bool whole = true;
    if (Take(".")) {
      whole = false;
      if (!Digits()) return Wrong("a digit is missing");
    }
    if (Take("e") || Take("E")) {
      whole = false;
      if (!Take("+")) Take("-");
      if (!Digits()) return Wrong("a digit is missing");
    }
    const std::string number(text_.substr(start, at_ - start));
    if (whole) {
      out->append(number == "-0" ? "0" : number);  // Python's integers have no sign of zero
    } else {
      out->append(PythonFloat(std::strtod(number.c_str(), nullptr)));
    }
    return absl::OkStatus();
  }

  const std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<std::string> ToPythonJson(std::string_view text) { return Rewriter(text).Whole(); }

absl::StatusOr<std::string> ToPythonJsonObject(std::string_view text) {
  absl::StatusOr<std::string> out = ToPythonJson(text);
  if (out.ok() && !out->starts_with('{')) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be a JSON object, it starts with ", out->substr(0, 1)));
  }
  return out;
}

}  // namespace mindforge
