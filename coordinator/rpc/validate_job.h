// Checks a submitted job and fills in every default: a pure function that lists all problems at
// once. What it passes can be stored and, paths and data permitting, trained.
#pragma once

#include <string>
#include <vector>

#include "common/error_details.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge {

struct ValidatedJob {
  v1::JobSpec spec;                        // complete; meaningful when there are no violations
  std::vector<FieldViolation> violations;  // field path, value and what could stand there
  std::vector<std::string> warnings;       // allowed, but likely not meant
};

ValidatedJob ValidateJob(const v1::JobSpec& submitted);

// "name" of a job or a deployment: [a-z0-9-], 1 to 63, no dash at either end. Empty when it is one,
// else what is wrong with it.
std::string CheckName(const std::string& name);

}  // namespace mindforge
