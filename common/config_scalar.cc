#include "common/config_scalar.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/descriptor.h"

namespace mindforge {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Beyond it a double no longer holds every whole number, so "1e17" would not be what it says.
constexpr double kLargestExactDouble = 9007199254740992.0;

std::optional<int64_t> ParseInt(const std::string& text) {
  int64_t whole = 0;
  if (absl::SimpleAtoi(text, &whole)) return whole;
  double number = 0;
  if (!absl::SimpleAtod(text, &number) || number != std::floor(number) ||
      std::abs(number) > kLargestExactDouble) {
    return std::nullopt;
  }
  return static_cast<int64_t>(number);
}

std::optional<double> ParseReal(const std::string& text) {
  double number = 0;
  if (!absl::SimpleAtod(text, &number) || !std::isfinite(number)) return std::nullopt;
  return number;
}

std::optional<bool> ParseBool(const std::string& text) {
  const std::string lower = absl::AsciiStrToLower(text);
  if (lower == "true" || lower == "yes" || lower == "on") return true;
  if (lower == "false" || lower == "no" || lower == "off") return false;
  return std::nullopt;
}

template <typename T>
bool FitsInto(int64_t value) {
  return value >= static_cast<int64_t>(std::numeric_limits<T>::min()) &&
         value <= static_cast<int64_t>(std::numeric_limits<T>::max());
}

// "JOB_STATE_" for the enum JobState: what its values begin with.
std::string EnumPrefix(const FieldDescriptor& field) {
  std::string prefix;
  for (const char c : field.enum_type()->name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return prefix + "_";
}

std::vector<std::string> EnumShortNames(const FieldDescriptor& field) {
  const std::string prefix = EnumPrefix(field);
  std::vector<std::string> names;
  for (int i = 0; i < field.enum_type()->value_count(); ++i) {
    const std::string& name = field.enum_type()->value(i)->name();
    if (absl::EndsWith(name, "_UNSPECIFIED")) continue;
    names.push_back(
        absl::AsciiStrToLower(absl::StartsWith(name, prefix) ? name.substr(prefix.size()) : name));
  }
  return names;
}

const EnumValueDescriptor* ParseEnum(const FieldDescriptor& field, const std::string& text) {
  const std::string upper = absl::AsciiStrToUpper(text);
  const EnumValueDescriptor* value = field.enum_type()->FindValueByName(upper);
  if (value == nullptr) value = field.enum_type()->FindValueByName(EnumPrefix(field) + upper);
  return value;
}

}  // namespace

std::string ExpectedValue(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number that is not negative";
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat("one of ", absl::StrJoin(EnumShortNames(field), ", "));
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "keys and values";
  }
  return "another value";
}

// Sets `field` (or appends to it) through `set`/`add` of the reflection interface.
#define MF_PUT(Type, value)                                           \
  (field.is_repeated() ? reflection.Add##Type(message, &field, value) \
                       : reflection.Set##Type(message, &field, value))

bool PutScalar(const std::string& text, const FieldDescriptor& field, Message* message) {
  const Reflection& reflection = *message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      MF_PUT(String, text);
      return true;
    case FieldDescriptor::CPPTYPE_BOOL: {
      const auto value = ParseBool(text);
      if (value) MF_PUT(Bool, *value);
      return value.has_value();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const auto value = ParseReal(text);
      if (value) MF_PUT(Double, *value);
      return value.has_value();
    }
    case FieldDescriptor::CPPTYPE_FLOAT: {
      const auto value = ParseReal(text);
      if (!value || std::abs(*value) > std::numeric_limits<float>::max()) return false;
      MF_PUT(Float, static_cast<float>(*value));
      return true;
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* const value = ParseEnum(field, text);
      if (value != nullptr) MF_PUT(Enum, value);
      return value != nullptr;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t large = 0;
      if (absl::SimpleAtoi(text, &large)) {
        MF_PUT(UInt64, large);
        return true;
      }
      const auto value = ParseInt(text);
      if (!value || *value < 0) return false;
      MF_PUT(UInt64, static_cast<uint64_t>(*value));
      return true;
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      const auto value = ParseInt(text);
      if (!value || !FitsInto<uint32_t>(*value)) return false;
      MF_PUT(UInt32, static_cast<uint32_t>(*value));
      return true;
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      const auto value = ParseInt(text);
      if (!value || !FitsInto<int32_t>(*value)) return false;
      MF_PUT(Int32, static_cast<int32_t>(*value));
      return true;
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      const auto value = ParseInt(text);
      if (value) MF_PUT(Int64, *value);
      return value.has_value();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return false;
  }
  return false;
}

#undef MF_PUT

}  // namespace mindforge
