#include "worker/formats/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"

namespace mindforge {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxValues = 1'000'000;
constexpr size_t kMaxItems = 4 * kMaxValues;  // in all values together; shared ones count again
constexpr size_t kMaxGlobalName = kMaxShownText;
constexpr int kMaxProtocol = 5;

absl::Status Malformed(const std::string& what) {
  return absl::DataLossError(absl::StrCat("malformed pickle: ", what));
}

template <typename T>
T BigEndian(const char* bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

}  // namespace

// The stack machine. Values are only ever appended to, never evaluated.
class PickleMachine {
 public:
  PickleMachine(PickleDocument* document, absl::Span<const std::string_view> globals)
      : document_(*document), globals_(globals), rest_(document->bytes_) {}

  absl::Status Run() {
    bool stop = false;
    while (!stop) {
      if (rest_.empty()) return Malformed("it ends without STOP");
      const char opcode = rest_[0];
      rest_.remove_prefix(1);
      if (opcode == '.') {
        stop = true;
      } else {
        RETURN_IF_ERROR(Step(opcode)) << "at byte " << document_.bytes_.size() - rest_.size() - 1;
      }
    }
    ASSIGN_OR_RETURN(document_.root_, Pop());
    if (!stack_.empty()) return Malformed("it leaves values behind");
    return CheckPickleTree(*document_.root_);
  }

 private:
  absl::Status Step(char opcode) {
    switch (opcode) {
      case 'N':
      case '\x88':
      case '\x89':
      case ')':
      case ']':
      case '}':
        return Constant(opcode);
      case 'J':
      case 'K':
      case 'M':
      case '\x8a':
      case 'G':
        return Number(opcode);
      case 'X':
      case '\x8c':
        return Text(opcode);
      case 'q':
      case 'r':
      case '\x94':
      case 'h':
      case 'j':
        return Memo(opcode);
      case 't':
      case '\x85':
      case '\x86':
      case '\x87':
        return Tuple(opcode);
      case 's':
      case 'u':
      case 'a':
      case 'e':
        return Append(opcode);
      case 'c':
      case '\x93':
        return Global(opcode);
      case '(':
        return Push({.kind = Kind::kMark});
      case 'R':
        return Call();
      case 'b':
        return Build();
      case 'Q':
        return Persistent();
      case '\x80':
        return Protocol();
      case '\x95':
        return Take(8).status();  // a frame's length: the bytes that follow speak for themselves
      default:
        return absl::InvalidArgumentError(absl::StrFormat(
            "the pickle uses opcode 0x%02x, which state dicts do not need; it is refused",
            static_cast<unsigned char>(opcode)));
    }
  }

  absl::StatusOr<std::string_view> Take(uint64_t bytes) {
    if (bytes > rest_.size()) return Malformed("it is cut off");
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  template <typename T>
  absl::StatusOr<T> TakeNumber() {
    ASSIGN_OR_RETURN(const std::string_view bytes, Take(sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(value));  // little-endian
    return value;
  }

  absl::StatusOr<std::string_view> TakeLine() {
    const size_t end = rest_.substr(0, kMaxGlobalName).find('\n');
    if (end == std::string_view::npos) return Malformed("a name does not end");
    const std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return line;
  }

  absl::Status Push(PickleValue value) {
    if (document_.values_.size() >= kMaxValues) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the pickle holds more than ", kMaxValues, " values"));
    }
    document_.values_.push_back(std::move(value));
    return PushShared(&document_.values_.back());
  }

  absl::Status PushShared(PickleValue* value) {
    if (stack_.size() >= kMaxValues) {
      return absl::ResourceExhaustedError("the pickle's stack grows without end");
    }
    stack_.push_back(value);
    return absl::OkStatus();
  }

  absl::StatusOr<PickleValue*> Pop() {
    if (stack_.empty() || stack_.back()->kind == Kind::kMark) {
      return Malformed("a value is missing on its stack");
    }
    PickleValue* const value = stack_.back();
    stack_.pop_back();
    return value;
  }

  // The value below what was popped, which stays.
  absl::StatusOr<PickleValue*> Top() {
    ASSIGN_OR_RETURN(PickleValue * value, Pop());
    stack_.push_back(value);
    return value;
  }

  // Bounds what values hold together: a shared value can be put into others without end.
  absl::Status CountItems(size_t count) {
    items_ += count;
    if (items_ <= kMaxItems) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("the pickle's values hold more than ", kMaxItems, " others"));
  }

  absl::StatusOr<std::vector<const PickleValue*>> PopToMark() {
    size_t mark = stack_.size();
    while (mark > 0 && stack_[mark - 1]->kind != Kind::kMark) --mark;
    if (mark == 0) return Malformed("a mark is missing on its stack");
    RETURN_IF_ERROR(CountItems(stack_.size() - mark));
    std::vector<const PickleValue*> items(stack_.begin() + static_cast<ptrdiff_t>(mark),
                                          stack_.end());
    stack_.resize(mark - 1);
    return items;
  }

  absl::StatusOr<std::vector<const PickleValue*>> PopSome(int count) {
    RETURN_IF_ERROR(CountItems(static_cast<size_t>(count)));
    std::vector<const PickleValue*> items(static_cast<size_t>(count));
    for (int i = count - 1; i >= 0; --i) {
      ASSIGN_OR_RETURN(items[static_cast<size_t>(i)], Pop());
    }
    return items;
  }

  absl::Status Constant(char opcode) {
    switch (opcode) {
      case '\x88':
      case '\x89':
        return Push({.kind = Kind::kBool, .boolean = opcode == '\x88'});
      case ')':
        return Push({.kind = Kind::kTuple});
      case ']':
        return Push({.kind = Kind::kList});
      case '}':
        return Push({.kind = Kind::kDict});
      default:
        return Push({});
    }
  }

  absl::Status Number(char opcode) {
    PickleValue value{.kind = Kind::kInt};
    if (opcode == 'J') {
      ASSIGN_OR_RETURN(value.integer, TakeNumber<int32_t>());
    } else if (opcode == 'K') {
      ASSIGN_OR_RETURN(value.integer, TakeNumber<uint8_t>());
    } else if (opcode == 'M') {
      ASSIGN_OR_RETURN(value.integer, TakeNumber<uint16_t>());
    } else if (opcode == 'G') {
      value.kind = Kind::kFloat;
      ASSIGN_OR_RETURN(const std::string_view bytes, Take(sizeof(double)));
      value.number = std::bit_cast<double>(BigEndian<uint64_t>(bytes.data()));
    } else {
      ASSIGN_OR_RETURN(const uint8_t length, TakeNumber<uint8_t>());
      ASSIGN_OR_RETURN(const std::string_view bytes, Take(length));
      if (length > sizeof(int64_t)) return Malformed("an integer has more than 64 bits");
      const bool negative = length > 0 && (bytes.back() & 0x80) != 0;
      uint64_t bits = negative ? ~uint64_t{0} : 0;
      std::memcpy(&bits, bytes.data(), length);
      value.integer = static_cast<int64_t>(bits);
    }
    return Push(std::move(value));
  }

  absl::Status Text(char opcode) {
    uint64_t length = 0;
    if (opcode == 'X') {
      ASSIGN_OR_RETURN(length, TakeNumber<uint32_t>());
    } else {
      ASSIGN_OR_RETURN(length, TakeNumber<uint8_t>());
    }
    PickleValue value{.kind = Kind::kText};
    ASSIGN_OR_RETURN(value.text, Take(length));
    return Push(std::move(value));
  }

  absl::Status Memo(char opcode) {
    uint32_t index = 0;
    if (opcode == 'q' || opcode == 'h') {
      ASSIGN_OR_RETURN(index, TakeNumber<uint8_t>());
    } else if (opcode == '\x94') {
      index = static_cast<uint32_t>(memo_.size());
    } else {
      ASSIGN_OR_RETURN(index, TakeNumber<uint32_t>());
    }
    if (opcode == 'h' || opcode == 'j') {
      const auto it = memo_.find(index);
      if (it == memo_.end()) return Malformed(absl::StrCat("it has no memo ", index));
      return PushShared(it->second);
    }
    ASSIGN_OR_RETURN(PickleValue * value, Top());
    if (memo_.size() >= kMaxValues && !memo_.contains(index)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the pickle remembers more than ", kMaxValues, " values"));
    }
    memo_[index] = value;
    return absl::OkStatus();
  }

  absl::Status Tuple(char opcode) {
    PickleValue value{.kind = Kind::kTuple};
    if (opcode == 't') {
      ASSIGN_OR_RETURN(value.items, PopToMark());
    } else {
      ASSIGN_OR_RETURN(value.items, PopSome(opcode - '\x84'));
    }
    return Push(std::move(value));
  }

  absl::Status Append(char opcode) {
    std::vector<const PickleValue*> items;
    if (opcode == 'u' || opcode == 'e') {
      ASSIGN_OR_RETURN(items, PopToMark());
    } else {
      ASSIGN_OR_RETURN(items, PopSome(opcode == 's' ? 2 : 1));
    }
    const bool pairs = opcode == 's' || opcode == 'u';
    ASSIGN_OR_RETURN(PickleValue * container, Top());
    if (container->kind != (pairs ? Kind::kDict : Kind::kList)) {
      return Malformed(absl::StrCat("items are added to ", std::string(container->KindName())));
    }
    if (pairs && items.size() % 2 != 0) return Malformed("a dictionary's key has no value");
    container->items.insert(container->items.end(), items.begin(), items.end());
    return absl::OkStatus();
  }

  absl::Status Global(char opcode) {
    std::string_view module;
    std::string_view name;
    if (opcode == 'c') {
      ASSIGN_OR_RETURN(module, TakeLine());
      ASSIGN_OR_RETURN(name, TakeLine());
    } else {
      ASSIGN_OR_RETURN(const auto both, PopSome(2));
      if (both[0]->kind != Kind::kText || both[1]->kind != Kind::kText) {
        return Malformed("a global's name is no text");
      }
      module = both[0]->text.substr(0, kMaxGlobalName);
      name = both[1]->text.substr(0, kMaxGlobalName);
    }
    std::string full = absl::StrCat(std::string(module), ".", std::string(name));
    if (std::find(globals_.begin(), globals_.end(), full) == globals_.end()) {
      if (full.starts_with("torch.") && full.ends_with("Storage")) {
        return absl::InvalidArgumentError(absl::StrCat("the pickle holds tensors of ",
                                                       ShownText(full),
                                                       ", a kind that is not read; save them "
                                                       "as float32, float16 or bfloat16"));
      }
      return absl::InvalidArgumentError(absl::StrCat(
          "the pickle asks for \"", ShownText(full),
          "\", which no state dict needs: loading it in Python could run code, so it is refused. "
          "Save tensors only, as torch.save(model.state_dict(), path) does"));
    }
    document_.joined_.push_back(std::move(full));
    return Push({.kind = Kind::kGlobal, .text = document_.joined_.back()});
  }

  absl::Status Call() {
    ASSIGN_OR_RETURN(PickleValue * arguments, Pop());
    ASSIGN_OR_RETURN(PickleValue * function, Pop());
    if (function->kind != Kind::kGlobal || arguments->kind != Kind::kTuple) {
      return Malformed("it calls what is no function");
    }
    if (function->text == "collections.OrderedDict") {
      if (!arguments->items.empty()) return Malformed("an OrderedDict is made of something");
      return Push({.kind = Kind::kDict});
    }
    RETURN_IF_ERROR(CountItems(1 + arguments->items.size()));
    PickleValue call{.kind = Kind::kCall, .items = {function}};
    call.items.insert(call.items.end(), arguments->items.begin(), arguments->items.end());
    return Push(std::move(call));
  }

  // Attributes of an object: a state dict's `_metadata`. Nothing here reads them.
  absl::Status Build() {
    RETURN_IF_ERROR(Pop().status());
    ASSIGN_OR_RETURN(PickleValue * object, Top());
    if (object->kind == Kind::kDict) return absl::OkStatus();
    return Malformed(absl::StrCat("it sets attributes of ", std::string(object->KindName())));
  }

  absl::Status Persistent() {
    PickleValue value{.kind = Kind::kPersistent};
    ASSIGN_OR_RETURN(value.items, PopSome(1));
    return Push(std::move(value));
  }

  absl::Status Protocol() {
    ASSIGN_OR_RETURN(const uint8_t version, TakeNumber<uint8_t>());
    if (version <= kMaxProtocol) return absl::OkStatus();
    return Malformed(absl::StrCat("protocol ", version, " is not known"));
  }

  PickleDocument& document_;
  const absl::Span<const std::string_view> globals_;
  std::string_view rest_;
  std::vector<PickleValue*> stack_;
  size_t items_ = 0;
  std::unordered_map<uint32_t, PickleValue*> memo_;
};

absl::StatusOr<std::unique_ptr<PickleDocument>> PickleDocument::Parse(
    std::string_view bytes, absl::Span<const std::string_view> globals) {
  std::unique_ptr<PickleDocument> document(new PickleDocument(bytes));
  RETURN_IF_ERROR(PickleMachine(document.get(), globals).Run());
  return document;
}

}  // namespace mindforge
