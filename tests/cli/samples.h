// Jobs and steps as a coordinator would show them.
#pragma once

#include <string>

#include "mindforge/v1/types.pb.h"

namespace mindforge::cli {

// Running on two devices.
v1::Job RunningJob(const std::string& name);
v1::ProgressRecord StepRecord(int64_t step, int64_t total);

}  // namespace mindforge::cli
