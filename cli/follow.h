// Following a job until it ends, over losses of the coordinator.
#pragma once

#include <memory>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "cli/session.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge::cli {

struct FollowOptions {
  std::string job;         // name or id
  std::string shown_name;  // what people call it, for "attach again"
  bool quiet = false;      // wait without showing progress
  bool connected = false;  // the server has just answered: a loss now is only a loss
  // Show progress for people whatever -o says: the caller prints the job as it ended.
  bool progress_only = false;
};

// Shows the job's progress on `out` until it ends; with -o json or yaml one message a change
// instead, unless progress_only. Returns the job as it ended. CANCELLED after Ctrl-C, when the job
// goes on and how to attach again has been told; DEADLINE_EXCEEDED when --timeout ran out,
// likewise.
absl::StatusOr<v1::Job> FollowJob(Session& session, v1::JobService::Stub& stub,
                                  const FollowOptions& options, std::ostream& out,
                                  const Terminal& terminal);

// SUCCEEDED is kOk, FAILED kJobFailed, CANCELLED kJobCancelled.
ExitCode ExitCodeOfJob(v1::JobState state);

}  // namespace mindforge::cli
