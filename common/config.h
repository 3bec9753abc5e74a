// YAML files -> proto messages, by reflection: the proto's comments are the documentation of the
// file, and a key that the proto does not have is an error with its place and the nearest name.
//
// Handles scalars ("5e-4" for a float, "1e6" for an integer that it is), enums (full name or the
// lower-case short one: JOB_STATE_RUNNING, running), nested messages, lists, maps with string keys,
// optional fields, and google.protobuf.Duration written "30s". Fields that the file does not name
// keep the value that the message had: put defaults there first.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace mindforge {

// What is wrong at one place of a file.
struct ConfigProblem {
  std::string field;  // "training.learning_rate"
  int line = 0;       // from 1; 0 when it did not come from a file
  int column = 0;
  std::string message;
};

// Fills `message` from `text`. Returns every problem found (all, not the first); on any, `message`
// holds what could be read.
std::vector<ConfigProblem> ParseYamlProblems(std::string_view text,
                                             google::protobuf::Message* message);

// As above. INVALID_ARGUMENT lists each problem on a line "name:line:column: field: message" and
// carries them as BadRequest field violations (common/error_details.h).
absl::Status ParseYaml(std::string_view text, std::string_view name,
                       google::protobuf::Message* message);

// Reads `path` (at most 1 MiB). NOT_FOUND when it is not there; errors as of ParseYaml.
absl::Status LoadYamlConfig(const std::string& path, google::protobuf::Message* message);

// Sets one field by its dotted path: SetField(&job, "training.learning_rate", "1e-3"). The value is
// YAML, so a list is "[a, b]". Messages on the way come into being; a map's key is a path part.
// INVALID_ARGUMENT when there is no such field or the value does not fit it.
absl::Status SetField(google::protobuf::Message* message, std::string_view path,
                      std::string_view value);

// Applies "a.b.c=value", as `--set` gives it.
absl::Status ApplyOverride(google::protobuf::Message* message, std::string_view assignment);

// Printing with the proto's own (snake_case) names. JSON: enums by name, 64-bit integers as
// numbers, Duration and Timestamp as text, unset fields left out unless `with_defaults`.
struct PrintOptions {
  bool with_defaults = false;
  int indent = 2;  // JSON only; -1 is one line
};
std::string ProtoToJson(const google::protobuf::Message& message, const PrintOptions& options = {});
std::string ProtoToYaml(const google::protobuf::Message& message, const PrintOptions& options = {});

}  // namespace mindforge
