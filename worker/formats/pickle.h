// Pickles as plain data. The interpreter can run no code: it knows the opcodes that state dicts
// are written with, keeps calls as what they say (which function, which arguments) without making
// them, and refuses every global that is not on the caller's list. It does not know tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mindforge {

struct PickleValue {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kTuple,
    kList,
    kDict,        // collections.OrderedDict too
    kGlobal,      // `text` is "module.name"
    kCall,        // items: what is called, then its arguments
    kPersistent,  // items: the id, which the container's own rules resolve
    kMark,        // inside the interpreter only
  };
  Kind kind = Kind::kNone;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;
  std::string_view text;
  std::vector<const PickleValue*> items;  // of a dictionary: key, value, key, value, …

  // The value under a text key; null when there is none or this is no dictionary.
  const PickleValue* Get(std::string_view key) const;
  bool IsCallOf(std::string_view function) const;
  // "a dictionary", "text" … for messages.
  std::string_view KindName() const;
};

// What is printable of text from an untrusted file, cut to kMaxShownText bytes.
inline constexpr size_t kMaxShownText = 200;
std::string ShownText(std::string_view text);

// OK: no value contains itself (INVALID_ARGUMENT) and none is too deep (RESOURCE_EXHAUSTED).
absl::Status CheckPickleTree(const PickleValue& root);

// What a pickle holds: a finite tree, or a graph without cycles where values are shared. Immutable.
class PickleDocument {
 public:
  // `bytes` is copied. `globals` are the names ("collections.OrderedDict") that may occur.
  // INVALID_ARGUMENT: another global (named), an opcode that state dicts do not need, or a value
  // that contains itself. DATA_LOSS: cut off or malformed. RESOURCE_EXHAUSTED: more values or
  // deeper than any state dict.
  static absl::StatusOr<std::unique_ptr<PickleDocument>> Parse(
      std::string_view bytes, absl::Span<const std::string_view> globals);

  const PickleValue& root() const { return *root_; }

 private:
  friend class PickleMachine;
  explicit PickleDocument(std::string_view bytes) : bytes_(bytes) {}

  const std::string bytes_;         // texts point into it
  std::deque<std::string> joined_;  // and global names into these
  std::deque<PickleValue> values_;
  const PickleValue* root_ = nullptr;
};

// Writes the same subset, as protocol 2. Values are written depth first: a container's opening
// call, its items (or key, value pairs), its closing call.
class PickleWriter {
 public:
  PickleWriter();

  void None() { bytes_ += 'N'; }
  void Bool(bool value) { bytes_ += value ? '\x88' : '\x89'; }
  void Int(int64_t value);
  void Float(double value);
  void Text(std::string_view text);
  void BeginDict() { bytes_ += "}("; }
  void BeginOrderedDict();
  void EndDict() { bytes_ += 'u'; }
  void BeginList() { bytes_ += "]("; }
  void EndList() { bytes_ += 'e'; }
  void BeginTuple() { bytes_ += '('; }
  void EndTuple() { bytes_ += 't'; }
  void Global(std::string_view module, std::string_view name);
  // After a global and a tuple of arguments.
  void Call() { bytes_ += 'R'; }
  // After the tuple that is the id.
  void Persistent() { bytes_ += 'Q'; }

  // The whole pickle.
  std::string Finish() && { return std::move(bytes_ += '.'); }

 private:
  std::string bytes_;
};

}  // namespace mindforge
