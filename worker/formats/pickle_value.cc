#include "worker/formats/pickle.h"

namespace mindforge {

using Kind = PickleValue::Kind;

std::string ShownText(std::string_view text) {
  std::string shown(text.substr(0, kMaxShownText));
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return shown;
}

const PickleValue* PickleValue::Get(std::string_view key) const {
  if (kind != Kind::kDict) return nullptr;
  const PickleValue* found = nullptr;  // the last of equal keys, as Python
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i]->kind == Kind::kText && items[i]->text == key) found = items[i + 1];
  }
  return found;
}

bool PickleValue::IsCallOf(std::string_view function) const {
  return kind == Kind::kCall && items[0]->text == function;
}

std::string_view PickleValue::KindName() const {
  switch (kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "a truth value";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a float";
    case Kind::kText:
      return "text";
    case Kind::kTuple:
      return "a tuple";
    case Kind::kList:
      return "a list";
    case Kind::kDict:
      return "a dictionary";
    case Kind::kGlobal:
      return "a name";
    case Kind::kCall:
      return "an object";
    case Kind::kPersistent:
      return "a storage";
    case Kind::kMark:
      break;
  }
  return "a mark";
}

}  // namespace mindforge
