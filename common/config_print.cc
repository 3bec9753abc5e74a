#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/config.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "nlohmann/json.hpp"
#include "yaml-cpp/yaml.h"

namespace mindforge {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

Json RealToJson(double value) {
  // JSON has no such numbers.
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

// A float's shortest decimal form, not the long tail of its double.
Json FloatToJson(float value) {
  double shortest = value;
  if (std::isfinite(value)) (void)absl::SimpleAtod(absl::StrCat(value), &shortest);
  return RealToJson(shortest);
}

Json MessageToJson(const Message& message, bool with_defaults);

Json ChildToJson(const Message& message, bool with_defaults) {
  if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&message)) {
    return absl::FormatDuration(absl::Seconds(duration->seconds()) +
                                absl::Nanoseconds(duration->nanos()));
  }
  if (const auto* stamp = dynamic_cast<const google::protobuf::Timestamp*>(&message)) {
    const absl::Time time =
        absl::FromUnixSeconds(stamp->seconds()) + absl::Nanoseconds(stamp->nanos());
    return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", time, absl::UTCTimeZone());
  }
  return MessageToJson(message, with_defaults);
}

// One value: element `index` of a repeated field, or the field itself when index is -1.
Json ValueToJson(const Message& message, const FieldDescriptor& field, int index,
                 bool with_defaults) {
  const Reflection& r = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? r.GetBool(message, &field) : r.GetRepeatedBool(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? r.GetInt32(message, &field) : r.GetRepeatedInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? r.GetInt64(message, &field) : r.GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? r.GetUInt32(message, &field) : r.GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? r.GetUInt64(message, &field) : r.GetRepeatedUInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return FloatToJson(one ? r.GetFloat(message, &field)
                             : r.GetRepeatedFloat(message, &field, index));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return RealToJson(one ? r.GetDouble(message, &field)
                            : r.GetRepeatedDouble(message, &field, index));
    case FieldDescriptor::CPPTYPE_ENUM:
      return (one ? r.GetEnum(message, &field) : r.GetRepeatedEnum(message, &field, index))->name();
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text =
          one ? r.GetString(message, &field) : r.GetRepeatedString(message, &field, index);
      return field.type() == FieldDescriptor::TYPE_BYTES ? absl::Base64Escape(text) : text;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ChildToJson(
          one ? r.GetMessage(message, &field) : r.GetRepeatedMessage(message, &field, index),
          with_defaults);
  }
  return nullptr;
}

std::string MapKey(const Message& entry) {
  const Json key = ValueToJson(entry, *entry.GetDescriptor()->map_key(), -1, false);
  return key.is_string() ? key.get<std::string>() : key.dump();
}

Json RepeatedToJson(const Message& message, const FieldDescriptor& field, bool with_defaults) {
  const Reflection& reflection = *message.GetReflection();
  const int count = reflection.FieldSize(message, &field);
  if (!field.is_map()) {
    Json list = Json::array();
    for (int i = 0; i < count; ++i) list.push_back(ValueToJson(message, field, i, with_defaults));
    return list;
  }
  // Sorted: a proto's map has no order of its own.
  nlohmann::json sorted = nlohmann::json::object();
  for (int i = 0; i < count; ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    sorted[MapKey(entry)] =
        ValueToJson(entry, *entry.GetDescriptor()->map_value(), -1, with_defaults);
  }
  return sorted;
}

bool IsShown(const Message& message, const FieldDescriptor& field, bool with_defaults) {
  const Reflection& reflection = *message.GetReflection();
  if (field.is_repeated()) return with_defaults || reflection.FieldSize(message, &field) > 0;
  return reflection.HasField(message, &field) || (with_defaults && !field.has_presence());
}

Json MessageToJson(const Message& message, bool with_defaults) {
  Json object = Json::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (!IsShown(message, field, with_defaults)) continue;
    object[field.name()] = field.is_repeated() ? RepeatedToJson(message, field, with_defaults)
                                               : ValueToJson(message, field, -1, with_defaults);
  }
  return object;
}

// True for text that YAML would read back as something else than text.
bool NeedsQuotes(const std::string& text) {
  if (text.empty() || text == "~" || text == "null") return true;
  double number;
  if (absl::SimpleAtod(text, &number)) return true;
  for (const char* word : {"true", "false", "yes", "no", "on", "off"}) {
    if (text == word) return true;
  }
  return false;
}

void EmitYaml(const Json& value, YAML::Emitter& out) {
  if (value.is_object()) {
    if (value.empty()) out << YAML::Flow;
    out << YAML::BeginMap;
    for (const auto& [key, child] : value.items()) {
      out << YAML::Key << key << YAML::Value;
      EmitYaml(child, out);
    }
    out << YAML::EndMap;
  } else if (value.is_array()) {
    if (value.empty() || !value.front().is_structured()) out << YAML::Flow;
    out << YAML::BeginSeq;
    for (const Json& child : value) EmitYaml(child, out);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    const std::string text = value.get<std::string>();
    if (NeedsQuotes(text)) out << YAML::DoubleQuoted;
    out << text;
  } else {
    out << value.dump();
  }
}

}  // namespace

std::string ProtoToJson(const Message& message, const PrintOptions& options) {
  return MessageToJson(message, options.with_defaults)
      .dump(options.indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string ProtoToYaml(const Message& message, const PrintOptions& options) {
  YAML::Emitter out;
  EmitYaml(MessageToJson(message, options.with_defaults), out);
  return std::string(out.c_str()) + "\n";
}

}  // namespace mindforge
