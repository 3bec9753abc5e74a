// Text -> scalar fields of a proto message: the leaves of config.h's YAML.
#pragma once

#include <string>

#include "google/protobuf/message.h"

namespace mindforge {

// What the field takes, in words: "a whole number", "one of cpu, cuda".
std::string ExpectedValue(const google::protobuf::FieldDescriptor& field);

// Sets the scalar `field` of `message` from `text`, or appends to it when it is repeated. False,
// with nothing changed, when `text` is no value of the field.
bool PutScalar(const std::string& text, const google::protobuf::FieldDescriptor& field,
               google::protobuf::Message* message);

}  // namespace mindforge
