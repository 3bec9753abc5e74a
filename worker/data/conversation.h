// A conversation of one jsonl line, in the form that the reference's data have: an object with
// `conversations`, a list of {role, content, reasoning_content?, tools?, tool_calls?}. It does not
// know templates or tokens.
#pragma once

#include "absl/status/statusor.h"
#include "worker/data/jsonl_reader.h"
#include "worker/tokenizer/chat.h"

namespace mindforge {

// `tools` (of a system message in front) and `tool_calls` are lists or, as the reference's data
// have them, JSON text of lists; a call is {name, arguments}, perhaps inside `function`. What is
// null or empty is as if it were not there; other fields of a message mean nothing to a template
// and are not looked at. Lists and objects may be nested 256 deep. INVALID_ARGUMENT: why the line
// cannot be used, with the message at fault
// ("conversations[2].role is \"human\", must be …").
absl::StatusOr<Chat> ChatOfLine(const NumberedLine& line);

}  // namespace mindforge
