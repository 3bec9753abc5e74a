#include "cli/job_file.h"

#include <filesystem>
#include <istream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/config.h"
#include "common/durable_file.h"
#include "common/error_details.h"

namespace mindforge::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxJobFileBytes = 1 << 20;

struct PathField {
  std::string name;
  std::string* value;  // null where the file does not name it
};

std::vector<PathField> PathFields(v1::JobSpec& spec) {
  std::vector<PathField> fields;
  if (spec.has_data()) {
    v1::DataSpec& data = *spec.mutable_data();
    fields.push_back({"data.path", data.mutable_path()});
    fields.push_back({"data.tokenizer", data.mutable_tokenizer()});
    fields.push_back({"data.cache_dir", data.mutable_cache_dir()});
    for (int i = 0; i < data.more_paths_size(); ++i) {
      fields.push_back({absl::StrCat("data.more_paths[", i, "]"), data.mutable_more_paths(i)});
    }
  }
  if (spec.has_training()) {
    fields.push_back({"training.init_from", spec.mutable_training()->mutable_init_from()});
  }
  if (spec.has_checkpoint()) {
    fields.push_back({"checkpoint.dir", spec.mutable_checkpoint()->mutable_dir()});
  }
  return fields;
}

void MakeAbsolute(v1::JobSpec& spec, const fs::path& folder, const std::string& whose,
                  std::vector<std::string>& notes) {
  for (const PathField& field : PathFields(spec)) {
    if (field.value->empty() || fs::path(*field.value).is_absolute()) continue;
    const std::string absolute = (folder / *field.value).lexically_normal().string();
    notes.push_back(absl::StrCat(field.name, ": ", *field.value, " is ", absolute, " (relative to ",
                                 whose, ")"));
    *field.value = absolute;
  }
}

absl::StatusOr<std::string> ReadAll(const std::string& path, std::istream& standard_input) {
  if (path == "-") {
    std::string text;
    char buffer[4096];
    while (standard_input.read(buffer, sizeof(buffer)) || standard_input.gcount() > 0) {
      text.append(buffer, standard_input.gcount());
      if (text.size() > kMaxJobFileBytes) {
        return absl::InvalidArgumentError("-f -: more than 1 MiB on stdin is no job file");
      }
    }
    return text;
  }
  auto text = ReadFile(path, kMaxJobFileBytes);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("-f ", path, ": ", text.status().message(),
                     ". `mindforge job example > job.yaml` writes one to start from."));
  }
  return text;
}

}  // namespace

absl::StatusOr<JobFile> LoadJobFile(const std::string& path, std::istream& standard_input,
                                    const std::vector<std::string>& overrides) {
  const absl::StatusOr<std::string> text = ReadAll(path, standard_input);
  if (!text.ok()) return text.status();
  JobFile file;
  std::vector<std::string> problems;
  const std::string name = path == "-" ? "stdin" : path;
  for (const ConfigProblem& problem : ParseYamlProblems(*text, &file.spec)) {
    std::string place = name;
    if (problem.line > 0) absl::StrAppend(&place, ":", problem.line, ":", problem.column);
    if (!problem.field.empty()) absl::StrAppend(&place, ": ", problem.field);
    problems.push_back(absl::StrCat(place, ": ", problem.message));
  }
  std::error_code error;
  const fs::path here = fs::current_path(error);
  if (error) return absl::FailedPreconditionError("the working directory is gone: cd elsewhere");
  const fs::path folder = path == "-" ? here : fs::absolute(path, error).parent_path();
  MakeAbsolute(file.spec, folder, path == "-" ? "the working directory" : "the job file's folder",
               file.notes);
  for (const std::string& override : overrides) {
    if (const absl::Status status = ApplyOverride(&file.spec, override); !status.ok()) {
      const std::vector<FieldViolation> violations = GetViolations(status);
      problems.push_back(absl::StrCat(
          "--set ", override, ": ",
          violations.empty() ? std::string(status.message()) : violations[0].description));
    }
  }
  MakeAbsolute(file.spec, here, "the working directory, as --set gave it", file.notes);
  if (problems.size() == 1) return absl::InvalidArgumentError(problems[0]);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the job file has ", problems.size(), " problems:\n  ", absl::StrJoin(problems, "\n  ")));
  }
  return file;
}

}  // namespace mindforge::cli
