// Whether all text of a serialized message is UTF-8, as protobuf's strings must be: its parser only
// says that something is wrong, this says where.
#pragma once

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "common/error_details.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace mindforge {

// The first string of `bytes`, a message of type `type`, that is not UTF-8, by its path
// ("chat.messages[2].content"); with an empty path: the bytes are no such message.
std::optional<FieldViolation> FindBadText(const google::protobuf::Descriptor& type,
                                          std::string_view bytes);

// INVALID_ARGUMENT that names the first field of `message` whose text is not UTF-8: what a client
// asks before it sends it.
absl::Status CheckText(const google::protobuf::Message& message);

// INVALID_ARGUMENT for `name` unless `text` is UTF-8.
absl::Status CheckText(std::string_view name, std::string_view text);

}  // namespace mindforge
