#include "common/request_text.h"

#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/utf8.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"

namespace mindforge {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 100;  // as protobuf's own parser has it

// Where `text` stops being UTF-8.
std::optional<size_t> FirstBadByte(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = Utf8Sequence(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) return at;
    at += step.bytes;
  }
  return std::nullopt;
}

std::optional<FieldViolation> BadText(const std::string& path, std::string_view text) {
  const std::optional<size_t> at = FirstBadByte(text);
  if (!at) return std::nullopt;
  return FieldViolation{
      path, absl::StrFormat("is not UTF-8: byte 0x%02X at offset %d; convert the text to UTF-8",
                            static_cast<unsigned char>(text[*at]), *at)};
}

class Walk {
 public:
  std::optional<FieldViolation> Message(const Descriptor& type, std::string_view bytes,
                                        const std::string& path, int depth) {
    CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                        static_cast<int>(bytes.size()));
    std::map<int, int> seen;  // elements of repeated fields, by number
    while (const uint32_t tag = in.ReadTag()) {
      const FieldDescriptor* const field =
          type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
      const bool bytes_follow =
          WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_LENGTH_DELIMITED;
      if (!bytes_follow || field == nullptr || !HoldsText(*field)) {
        if (!WireFormatLite::SkipField(&in, tag)) return NoMessage(type);
        continue;
      }
      uint32_t size = 0;
      if (!in.ReadVarint32(&size) || size > bytes.size() - in.CurrentPosition()) {
        return NoMessage(type);
      }
      const std::string_view value = bytes.substr(in.CurrentPosition(), size);
      in.Skip(static_cast<int>(size));
      auto found = Value(*field, value, PathOf(*field, path, seen), depth);
      if (found) return found;
    }
    if (!in.ConsumedEntireMessage()) return NoMessage(type);
    return std::nullopt;
  }

 private:
  static bool HoldsText(const FieldDescriptor& field) {
    return field.type() == FieldDescriptor::TYPE_STRING ||
           field.type() == FieldDescriptor::TYPE_MESSAGE;
  }

  static FieldViolation NoMessage(const Descriptor& type) {
    return {"", absl::StrCat("the request's bytes are no ", type.full_name(),
                             ": is the client built from the same proto files?")};
  }

  static std::string PathOf(const FieldDescriptor& field, const std::string& path,
                            std::map<int, int>& seen) {
    std::string own = absl::StrCat(path, path.empty() ? "" : ".", field.name());
    if (field.is_repeated()) absl::StrAppend(&own, "[", seen[field.number()]++, "]");
    return own;
  }

  std::optional<FieldViolation> Value(const FieldDescriptor& field, std::string_view value,
                                      const std::string& path, int depth) {
    if (field.type() == FieldDescriptor::TYPE_STRING) return BadText(path, value);
    if (depth >= kMaxDepth) return NoMessage(*field.message_type());
    return Message(*field.message_type(), value, path, depth + 1);
  }
};

}  // namespace

std::optional<FieldViolation> FindBadText(const Descriptor& type, std::string_view bytes) {
  return Walk().Message(type, bytes, "", 0);
}

absl::Status CheckText(const google::protobuf::Message& message) {
  const auto bad = FindBadText(*message.GetDescriptor(), message.SerializeAsString());
  return bad ? InvalidArgument({*bad}) : absl::OkStatus();
}

absl::Status CheckText(std::string_view name, std::string_view text) {
  const auto bad = BadText(std::string(name), text);
  return bad ? InvalidArgument({*bad}) : absl::OkStatus();
}

}  // namespace mindforge
