#include "worker/serve/field_checker.h"

#include "google/protobuf/unknown_field_set.h"

namespace mindforge {

absl::Duration FieldChecker::Positive(const std::string& field,
                                      const google::protobuf::Duration& value) {
  const absl::Duration duration = absl::Seconds(value.seconds()) + absl::Nanoseconds(value.nanos());
  const bool valid = value.nanos() > -1'000'000'000 && value.nanos() < 1'000'000'000 &&
                     duration > absl::ZeroDuration();
  Require(valid, field,
          absl::StrCat("is ", absl::FormatDuration(duration), "; expected more than 0"));
  return valid ? duration : absl::InfiniteDuration();
}

void FieldChecker::UnknownFields(const google::protobuf::Message& message,
                                 const std::string& prefix) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  const google::protobuf::UnknownFieldSet& unknown = reflection->GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    Add(absl::StrCat(prefix, "#", unknown.field(i).number()),
        "is a field that this program does not know; leave it out or use a newer version");
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string name = absl::StrCat(prefix, field->name());
    if (!field->is_repeated()) {
      UnknownFields(reflection->GetMessage(message, field), name + ".");
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      UnknownFields(reflection->GetRepeatedMessage(message, field, i),
                    absl::StrCat(name, "[", i, "]."));
    }
  }
}

}  // namespace mindforge
