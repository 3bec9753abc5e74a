#include "common/config.h"

#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config_scalar.h"
#include "common/durable_file.h"
#include "common/duration.h"
#include "common/error_details.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "yaml-cpp/yaml.h"

namespace mindforge {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr int kMaxDepth = 32;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

std::string Describe(const YAML::Node& node) {
  if (node.IsMap()) return "keys and values";
  if (node.IsSequence()) return "a list";
  if (!node.IsScalar()) return "nothing";
  return absl::StrCat("'", Truncate(node.Scalar(), 60), "'");
}

// Walks a YAML tree and a message side by side and gathers what does not fit.
class Reader {
 public:
  explicit Reader(std::vector<ConfigProblem>& problems) : problems_(problems) {}

  void ReadMessage(const YAML::Node& node, const std::string& path, int depth, Message* message) {
    if (node.IsNull()) return;
    if (!node.IsMap() || depth > kMaxDepth) {
      AddProblem(node, path, absl::StrCat("expected keys and values, got ", Describe(node)));
      return;
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "?";
      const std::string field_path = path.empty() ? key : absl::StrCat(path, ".", key);
      if (!seen.insert(key).second) {
        AddProblem(entry.first, field_path, "the key is there twice");
        continue;
      }
      const FieldDescriptor* const field = message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        AddUnknownKey(entry.first, key, field_path, *message);
        continue;
      }
      if (OtherOfOneofSeen(*field, seen)) {
        AddProblem(
            entry.first, field_path,
            absl::StrCat("only one key of '", field->containing_oneof()->name(), "' can be set"));
        continue;
      }
      ReadField(entry.second, *field, field_path, depth, message);
    }
  }

  void ReadField(const YAML::Node& node, const FieldDescriptor& field, const std::string& path,
                 int depth, Message* message) {
    if (node.IsNull()) return;
    if (field.is_map()) {
      ReadMap(node, field, path, depth, message);
    } else if (field.is_repeated()) {
      if (!node.IsSequence()) {
        AddProblem(node, path, absl::StrCat("expected a list, got ", Describe(node)));
        return;
      }
      message->GetReflection()->ClearField(message, &field);
      int index = 0;
      for (const auto& element : node) {
        ReadValue(element, field, absl::StrCat(path, "[", index++, "]"), depth, message);
      }
    } else {
      ReadValue(node, field, path, depth, message);
    }
  }

  void AddUnknownKey(const YAML::Node& node, const std::string& key, const std::string& path,
                     const Message& message) {
    std::vector<std::string> names;
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      names.push_back(message.GetDescriptor()->field(i)->name());
    }
    std::string hint = DidYouMean(key, names);
    if (hint.empty()) hint = absl::StrCat("; known here: ", absl::StrJoin(names, ", "));
    AddProblem(node, path, absl::StrCat("unknown key '", Truncate(key, 60), "'", hint));
  }

 private:
  static bool OtherOfOneofSeen(const FieldDescriptor& field, const std::set<std::string>& seen) {
    const auto* const oneof = field.real_containing_oneof();
    if (oneof == nullptr) return false;
    for (int i = 0; i < oneof->field_count(); ++i) {
      if (oneof->field(i) != &field && seen.count(oneof->field(i)->name()) > 0) return true;
    }
    return false;
  }

  // One value: a scalar, a message, or one element of a list.
  void ReadValue(const YAML::Node& node, const FieldDescriptor& field, const std::string& path,
                 int depth, Message* message) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      const Reflection& reflection = *message->GetReflection();
      Message* const child = field.is_repeated() ? reflection.AddMessage(message, &field)
                                                 : reflection.MutableMessage(message, &field);
      if (auto* duration = dynamic_cast<google::protobuf::Duration*>(child)) {
        ReadDuration(node, path, duration);
      } else {
        ReadMessage(node, path, depth + 1, child);
      }
      return;
    }
    if (!node.IsScalar() || !PutScalar(node.Scalar(), field, message)) {
      AddProblem(node, path,
                 absl::StrCat("expected ", ExpectedValue(field), ", got ", Describe(node)));
    }
  }

  void ReadDuration(const YAML::Node& node, const std::string& path,
                    google::protobuf::Duration* duration) {
    const auto parsed = ParseDuration(node.IsScalar() ? node.Scalar() : "");
    if (!parsed.ok()) {
      AddProblem(node, path,
                 absl::StrCat("expected a duration such as 30s or 5m, got ", Describe(node)));
      return;
    }
    duration->set_seconds(absl::ToInt64Seconds(*parsed));
    duration->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(*parsed % absl::Seconds(1))));
  }

  void ReadMap(const YAML::Node& node, const FieldDescriptor& field, const std::string& path,
               int depth, Message* message) {
    if (!node.IsMap()) {
      AddProblem(node, path, absl::StrCat("expected keys and values, got ", Describe(node)));
      return;
    }
    message->GetReflection()->ClearField(message, &field);
    for (const auto& entry : node) {
      const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "?";
      const std::string entry_path = absl::StrCat(path, ".", key);
      Message* const added = message->GetReflection()->AddMessage(message, &field);
      if (!entry.first.IsScalar() || !PutScalar(key, *field.message_type()->map_key(), added)) {
        AddProblem(entry.first, entry_path, "this cannot be a key here");
        continue;
      }
      ReadValue(entry.second, *field.message_type()->map_value(), entry_path, depth, added);
    }
  }

  void AddProblem(const YAML::Node& node, const std::string& path, const std::string& message) {
    const YAML::Mark mark = node.Mark();
    problems_.push_back({path, mark.line + 1, mark.column + 1, message});
  }

  std::vector<ConfigProblem>& problems_;
};

// The line, from 1, that begins a second document with something in it; 0: there is none. A line
// that begins with --- or ... is a document's border wherever it stands, in quotes too.
int SecondDocument(std::string_view text) {
  const auto border = [](std::string_view line, std::string_view mark) {
    return line.starts_with(mark) && (line.size() == 3 || line[3] == ' ' || line[3] == '\t');
  };
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  int number = 0, second = 0;
  bool begun = false, over = false;
  for (size_t at = 0; at < text.size();) {
    std::string_view line = text.substr(at, text.find('\n', at) - at);
    at += line.size() + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (border(line, "...")) {
      over = begun;
      continue;
    }
    if (border(line, "---")) {
      if (begun && second == 0) second = number;
      begun = true;
      line.remove_prefix(3);
    }
    const size_t first = line.find_first_not_of(" \t");
    if (first == std::string_view::npos || line[first] == '#' || (!begun && line[0] == '%')) {
      continue;
    }
    if (over && second == 0) second = number;
    if (second > 0) return second;
    begun = true;
  }
  return 0;
}

// `text` as YAML; a syntax error becomes a problem.
std::optional<YAML::Node> LoadYaml(std::string_view text, std::vector<ConfigProblem>& problems) {
  if (const int line = SecondDocument(text); line > 0) {
    problems.push_back({"", line, 1,
                        "a second document begins here and would be ignored: a file holds one; "
                        "put this one into a file of its own"});
    return std::nullopt;
  }
  try {
    return YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    problems.push_back({"", error.mark.line + 1, error.mark.column + 1,
                        absl::StrCat("this is no YAML: ", error.msg)});
    return std::nullopt;
  }
}

}  // namespace

std::vector<ConfigProblem> ParseYamlProblems(std::string_view text, Message* message) {
  std::vector<ConfigProblem> problems;
  const auto root = LoadYaml(text, problems);
  if (root) Reader(problems).ReadMessage(*root, "", 0, message);
  return problems;
}

absl::Status ParseYaml(std::string_view text, std::string_view name, Message* message) {
  const std::vector<ConfigProblem> problems = ParseYamlProblems(text, message);
  if (problems.empty()) return absl::OkStatus();
  std::vector<FieldViolation> violations;
  for (const ConfigProblem& problem : problems) {
    const std::string place = absl::StrCat("line ", problem.line, ", column ", problem.column);
    violations.push_back({problem.field, absl::StrCat(problem.message, " (", place, ")")});
  }
  const absl::Status details = InvalidArgument(violations, "INVALID_CONFIG");
  std::vector<std::string> lines;
  for (const ConfigProblem& problem : problems) {
    lines.push_back(absl::StrCat(std::string(name), ":", problem.line, ":", problem.column, ": ",
                                 problem.field, problem.field.empty() ? "" : ": ",
                                 problem.message));
  }
  absl::Status status = absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
  status.SetPayload(kErrorInfoUrl, *details.GetPayload(kErrorInfoUrl));
  status.SetPayload(kBadRequestUrl, *details.GetPayload(kBadRequestUrl));
  return status;
}

absl::Status LoadYamlConfig(const std::string& path, Message* message) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  return ParseYaml(text, path, message);
}

absl::Status SetField(Message* message, std::string_view path, std::string_view value) {
  const std::string full_path(path);
  std::vector<ConfigProblem> problems;
  Reader reader(problems);
  const std::vector<std::string> parts = absl::StrSplit(full_path, '.');
  for (size_t i = 0; i < parts.size() && problems.empty(); ++i) {
    const FieldDescriptor* const field = message->GetDescriptor()->FindFieldByName(parts[i]);
    if (field == nullptr) {
      reader.AddUnknownKey(YAML::Node(), parts[i], full_path, *message);
      break;
    }
    if (i + 1 < parts.size() && field->is_map()) {
      // The rest is the key, dots and all.
      const std::string key =
          absl::StrJoin(parts.begin() + static_cast<long>(i) + 1, parts.end(), ".");
      Message* const entry = message->GetReflection()->AddMessage(message, field);
      PutScalar(key, *field->message_type()->map_key(), entry);
      reader.ReadField(YAML::Node(std::string(value)), *field->message_type()->map_value(),
                       full_path, 0, entry);
      break;
    }
    if (i + 1 < parts.size()) {
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated()) {
        return InvalidArgument(full_path,
                               absl::StrCat("'", parts[i], "' has no fields of its own"));
      }
      message = message->GetReflection()->MutableMessage(message, field);
      continue;
    }
    // Text is taken as it stands: a path may hold what means something in YAML.
    const bool is_text =
        field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !field->is_repeated();
    const auto node = is_text ? YAML::Node(std::string(value)) : LoadYaml(value, problems);
    if (node && node->IsNull()) {
      message->GetReflection()->ClearField(message, field);
    } else if (node) {
      reader.ReadField(*node, *field, full_path, 0, message);
    }
  }
  if (problems.empty()) return absl::OkStatus();
  return InvalidArgument(full_path, problems.front().message);
}

absl::Status ApplyOverride(Message* message, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return InvalidArgument(std::string(assignment),
                           "an override is written field.name=value, such as "
                           "training.learning_rate=1e-3");
  }
  return SetField(message, assignment.substr(0, equals), assignment.substr(equals + 1));
}

}  // namespace mindforge
