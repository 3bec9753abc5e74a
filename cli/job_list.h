// All jobs that a request asks for, page after page.
#pragma once

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/rpc.h"
#include "cli/session.h"
#include "mindforge/v1/job_service.grpc.pb.h"

namespace mindforge::cli {

// The request's page size and token are set here; `timeout` is of one page.
absl::StatusOr<v1::ListJobsResponse> ListAllJobs(Session& session, v1::JobService::Stub& stub,
                                                 v1::ListJobsRequest request,
                                                 absl::Duration timeout = kCallTimeout);

}  // namespace mindforge::cli
