#include "coordinator/rpc/job_service.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/rpc/requests.h"
#include "coordinator/rpc/validate_job.h"

namespace mindforge {
namespace {

constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1000;

// A mutation of the job named in the request: Command has the fields job and request.
template <typename Command, typename Request>
absl::StatusOr<sched::Event> CommandOf(const char* method, const Request& request) {
  Command command;
  command.job = request.job();
  ASSIGN_OR_RETURN(command.request, RequestOf(method, request.request_id(), request));
  return command;
}

// Writes the job that an outcome is about into any response that has one.
template <typename Response>
FillOutcome FillsJob(Response* response) {
  return [response](const sched::Outcome& outcome, const sched::State& state) {
    const auto job = state.jobs.find(outcome.job);
    if (job == state.jobs.end()) return JobNotFound(outcome.job.value());
    FillJob(state, job->second, response->mutable_job());
    return absl::OkStatus();
  };
}

absl::StatusOr<sched::Event> ScaleOf(const v1::ScaleJobRequest& request) {
  std::vector<FieldViolation> problems;
  if (request.min() < 1) {
    problems.push_back({"min", absl::StrCat("is ", request.min(), ", must be at least 1")});
  }
  if (request.max() < request.min()) {
    problems.push_back({"max", absl::StrCat("is ", request.max(), ", must be at least min (",
                                            request.min(), ")")});
  }
  if (!problems.empty()) return InvalidArgument(problems);
  ASSIGN_OR_RETURN(sched::Event event, CommandOf<sched::ScaleJob>("ScaleJob", request));
  auto& command = std::get<sched::ScaleJob>(event);
  command.min = request.min();
  command.max = request.max();
  return event;
}

absl::StatusOr<sched::Event> RepinOf(const v1::RepinJobRequest& request) {
  if (request.numerics().size() > kMaxNumericsBytes) {
    return InvalidArgument("numerics", absl::StrCat("has ", request.numerics().size(),
                                                    " bytes, at most ", kMaxNumericsBytes));
  }
  ASSIGN_OR_RETURN(sched::Event event, CommandOf<sched::RepinJob>("RepinJob", request));
  std::get<sched::RepinJob>(event).numerics = request.numerics();
  return event;
}

absl::Status ListPage(const sched::State& state, const v1::ListJobsRequest& request,
                      v1::ListJobsResponse* response) {
  int64_t before = std::numeric_limits<int64_t>::max();
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &before)) {
    return InvalidArgument("page_token", "is none of ours: leave it empty for the first page");
  }
  if (request.page_size() < 0 || request.page_size() > kMaxPage) {
    return InvalidArgument(
        "page_size", absl::StrCat("is ", request.page_size(), ", must be from 0 to ", kMaxPage));
  }
  const std::set<int> wanted(request.states().begin(), request.states().end());
  const int page = request.page_size() == 0 ? kDefaultPage : request.page_size();
  for (auto it = state.by_sequence.lower_bound(before); it != state.by_sequence.begin();) {
    --it;
    const sched::Job& job = state.jobs.at(it->second);
    if (!wanted.empty() && wanted.count(static_cast<int>(job.state)) == 0) continue;
    if (response->jobs_size() == page) {
      response->set_next_page_token(absl::StrCat(it->first + 1));
      break;
    }
    FillJob(state, job, response->add_jobs());
  }
  return absl::OkStatus();
}

// validate_only: the job as it would be, without an id; nothing is stored.
absl::Status ValidateOnly(const sched::State& state, const ValidatedJob& job,
                          v1::SubmitJobResponse* response) {
  const auto taken = state.live_names.find(job.spec.name());
  if (taken != state.live_names.end()) {
    return Error(
        absl::StatusCode::kAlreadyExists, "JOB_NAME_TAKEN",
        absl::StrCat("name: '", job.spec.name(), "' is taken by job ", taken->second.value(),
                     ": choose another name, or cancel that job first"));
  }
  *response->mutable_job()->mutable_spec() = job.spec;
  response->mutable_job()->set_state(v1::JOB_STATE_QUEUED);
  response->mutable_job()->set_reason("valid; nothing was submitted");
  response->mutable_job()->set_last_checkpoint_step(-1);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* JobService::SubmitJob(grpc::CallbackServerContext* context,
                                                const v1::SubmitJobRequest* request,
                                                v1::SubmitJobResponse* response) {
  ValidatedJob job = ValidateJob(request->job());
  absl::StatusOr<sched::Request> id;
  if (!request->validate_only() || !request->request_id().empty()) {
    id = RequestOf("SubmitJob", request->request_id(), request->job());
    for (FieldViolation& violation : GetViolations(id.status())) {
      job.violations.push_back(std::move(violation));
    }
  }
  for (const std::string& warning : job.warnings) response->add_warnings(warning);
  if (!job.violations.empty()) {
    return Mutate(context, core_, InvalidArgument(job.violations, "INVALID_JOB"), nullptr);
  }
  if (request->validate_only()) {
    return Look(context, core_, [job = std::move(job), response](const sched::State& state) {
      return ValidateOnly(state, job, response);
    });
  }
  sched::Event event = sched::SubmitJob{JobId(RandomId()), WishOf(job.spec),
                                        job.spec.SerializeAsString(), *std::move(id)};
  return Mutate(context, core_, event,
                [response, fill = FillsJob(response)](const sched::Outcome& outcome,
                                                      const sched::State& state) {
                  response->set_already_submitted(outcome.repeated);
                  return fill(outcome, state);
                });
}

grpc::ServerUnaryReactor* JobService::GetJob(grpc::CallbackServerContext* context,
                                             const v1::GetJobRequest* request,
                                             v1::GetJobResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  core_.View([=, this](const sched::State& state, const sched::Now&) -> Core::Reply {
    const sched::Job* job = sched::FindJob(state, request->job());
    if (job == nullptr) return Finish(reactor, JobNotFound(request->job()));
    FillJob(state, *job, response->mutable_job());
    for (const sched::JobEvent& event : job->events) AddEvent(event, response);
    if (!job->events.empty()) return Finish(reactor, absl::OkStatus());
    // Those of jobs that ended before this coordinator began are in the store alone.
    return [=, this, id = job->id] {
      const bool taken = core_.Read([=, this] {
        const auto events = core_.ReadEvents(id);
        if (events.ok()) {
          for (const sched::JobEvent& event : *events) AddEvent(event, response);
        }
        reactor->Finish(ToGrpcStatus(events.status()));
      });
      if (!taken) reactor->Finish(ToGrpcStatus(StoreReadsBusy()));
    };
  });
  return reactor;
}

grpc::ServerUnaryReactor* JobService::ListJobs(grpc::CallbackServerContext* context,
                                               const v1::ListJobsRequest* request,
                                               v1::ListJobsResponse* response) {
  return Look(context, core_, [request, response](const sched::State& state) {
    return ListPage(state, *request, response);
  });
}

grpc::ServerUnaryReactor* JobService::CancelJob(grpc::CallbackServerContext* context,
                                                const v1::CancelJobRequest* request,
                                                v1::CancelJobResponse* response) {
  return Mutate(context, core_, CommandOf<sched::CancelJob>("CancelJob", *request),
                FillsJob(response));
}

grpc::ServerUnaryReactor* JobService::PauseJob(grpc::CallbackServerContext* context,
                                               const v1::PauseJobRequest* request,
                                               v1::PauseJobResponse* response) {
  return Mutate(context, core_, CommandOf<sched::PauseJob>("PauseJob", *request),
                FillsJob(response));
}

grpc::ServerUnaryReactor* JobService::ResumeJob(grpc::CallbackServerContext* context,
                                                const v1::ResumeJobRequest* request,
                                                v1::ResumeJobResponse* response) {
  return Mutate(context, core_, CommandOf<sched::ResumeJob>("ResumeJob", *request),
                FillsJob(response));
}

grpc::ServerUnaryReactor* JobService::ScaleJob(grpc::CallbackServerContext* context,
                                               const v1::ScaleJobRequest* request,
                                               v1::ScaleJobResponse* response) {
  return Mutate(context, core_, ScaleOf(*request), FillsJob(response));
}

grpc::ServerUnaryReactor* JobService::RepinJob(grpc::CallbackServerContext* context,
                                               const v1::RepinJobRequest* request,
                                               v1::RepinJobResponse* response) {
  return Mutate(context, core_, RepinOf(*request),
                [response](const sched::Outcome& outcome, const sched::State& state) {
                  response->set_former_numerics(outcome.name);
                  return FillsJob(response)(outcome, state);
                });
}

grpc::ServerUnaryReactor* JobService::DeleteJob(grpc::CallbackServerContext* context,
                                                const v1::DeleteJobRequest* request,
                                                v1::DeleteJobResponse* response) {
  return Mutate(context, core_, CommandOf<sched::DeleteJob>("DeleteJob", *request),
                [](const sched::Outcome&, const sched::State&) { return absl::OkStatus(); });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobService::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  return StartWatch(core_, streams_, context, *request);
}

grpc::ServerWriteReactor<v1::StreamJobLogsResponse>* JobService::StreamJobLogs(
    grpc::CallbackServerContext* context, const v1::StreamJobLogsRequest* request) {
  return StartLogs(core_, streams_, context, *request);
}

grpc::ServerWriteReactor<v1::StreamJobMetricsResponse>* JobService::StreamJobMetrics(
    grpc::CallbackServerContext* context, const v1::StreamJobMetricsRequest* request) {
  return StartMetrics(core_, streams_, context, *request);
}

}  // namespace mindforge
