// Jobs as tables and descriptions.
#pragma once

#include <vector>

#include "cli/session.h"
#include "mindforge/v1/job_service.pb.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge::cli {

// One row a job; names with -o name. REQUIRES: not structured().
void PrintJobs(Session& session, const std::vector<v1::Job>& jobs);
// One job in the format asked for: a message, a row, or its name.
void PrintJob(Session& session, const v1::Job& job);
// Everything about one job, for people.
void DescribeJob(Session& session, const v1::Job& job);
// The decisions about a job, oldest first.
void PrintEvents(Session& session, const v1::GetJobResponse& response);

}  // namespace mindforge::cli
