// The job file: YAML on disk, with `--set` on top, to a JobSpec with absolute paths. It checks
// names and types; which values can work is the coordinator's to say.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge::cli {

struct JobFile {
  v1::JobSpec spec;
  // "data.path: a.jsonl is /jobs/a.jsonl (relative to the job file's folder)"
  std::vector<std::string> notes;
};

// Reads `path` ("-" reads `standard_input`) and applies `overrides`
// ("training.learning_rate=1e-3"). Relative paths in the file are taken from the file's folder (the
// working directory for "-"), those in an override from the working directory. INVALID_ARGUMENT
// lists every problem, one a line.
absl::StatusOr<JobFile> LoadJobFile(const std::string& path, std::istream& standard_input,
                                    const std::vector<std::string>& overrides);

// The commented job file that `mindforge job example` prints.
const char* ExampleJobFile();

}  // namespace mindforge::cli
