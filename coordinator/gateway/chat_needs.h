// What of a chat not every build of an inference worker reads.
#pragma once

#include "mindforge/v1/inference_service.pb.h"

namespace mindforge {

// True when it has tools, calls of them or reasoning: fields that protobuf lets an earlier build
// leave out unread.
bool NeedsTools(const v1::ChatMessages& chat);

}  // namespace mindforge
