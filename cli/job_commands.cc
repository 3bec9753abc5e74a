// `mindforge job` but for submitting and streaming: list, get, why, cancel, pause, resume, scale,
// delete.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/job_list.h"
#include "cli/job_view.h"
#include "cli/rpc.h"
#include "common/error_details.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "mindforge/v1/job_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

using v1::JobService;

absl::StatusOr<v1::JobState> ParseState(const std::string& text) {
  v1::JobState state;
  const std::string upper = absl::AsciiStrToUpper(text);
  if (v1::JobState_Parse(upper, &state) || v1::JobState_Parse("JOB_STATE_" + upper, &state)) {
    if (state != v1::JOB_STATE_UNSPECIFIED) return state;
  }
  std::vector<std::string> names;
  std::string list;
  for (int i = 1; i < v1::JobState_ARRAYSIZE; ++i) {
    names.push_back(absl::AsciiStrToLower(StateName(static_cast<v1::JobState>(i))));
    absl::StrAppend(&list, i > 1 ? ", " : "", names.back());
  }
  return InvalidArgument("--state", absl::StrCat("'", text, "' is no job state",
                                                 DidYouMean(text, names), " (", list, ")"));
}

absl::StatusOr<ExitCode> List(Session& session, const std::vector<std::string>& states) {
  v1::ListJobsRequest request;
  for (const std::string& text : states) {
    ASSIGN_OR_RETURN(const v1::JobState state, ParseState(text));
    request.add_states(state);
  }
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = JobService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::ListJobsResponse all, ListAllJobs(session, *stub, request));
  if (session.structured()) {
    session.PrintMessage(all);
    return ExitCode::kOk;
  }
  if (all.jobs().empty()) session.Note("no jobs; `mindforge job example` prints a job file");
  PrintJobs(session, {all.jobs().begin(), all.jobs().end()});
  return ExitCode::kOk;
}

absl::StatusOr<v1::GetJobResponse> Fetch(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = JobService::NewStub(channel);
  v1::GetJobRequest request;
  request.set_job(job);
  return Call(session, {.what = absl::StrCat("get job '", job, "'")}, *stub,
              &JobService::Stub::GetJob, request);
}

absl::StatusOr<ExitCode> Get(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(const v1::GetJobResponse response, Fetch(session, job));
  if (session.options.output == OutputFormat::kTable) {
    DescribeJob(session, response.job());
  } else {
    PrintJob(session, response.job());
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Why(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(const v1::GetJobResponse response, Fetch(session, job));
  if (session.structured()) {
    session.PrintMessage(response);
  } else {
    PrintEvents(session, response);
  }
  return ExitCode::kOk;
}

// A mutation of one job that answers with the job.
template <typename Request, typename Response>
absl::StatusOr<ExitCode> Change(Session& session, const std::string& verb,
                                grpc::Status (JobService::Stub::*method)(grpc::ClientContext*,
                                                                         const Request&, Response*),
                                Request request) {
  request.set_request_id(RandomUuid());
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = JobService::NewStub(channel);
  ASSIGN_OR_RETURN(const Response response,
                   Call(session,
                        {.what = absl::StrCat(verb, " job '", request.job(), "'"),
                         .request_id = request.request_id()},
                        *stub, method, request));
  if constexpr (requires { response.job(); }) {
    PrintJob(session, response.job());
  } else if (session.structured()) {
    session.PrintMessage(response);
  } else {
    session.Note(absl::StrCat("job '", request.job(),
                              "' is deleted; its checkpoint folders stay where they are"));
  }
  return ExitCode::kOk;
}

template <typename Request, typename Response>
void AddChange(Registry& registry, CLI::App& job, const std::string& verb, const std::string& help,
               grpc::Status (JobService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Response*)) {
  const auto request = std::make_shared<Request>();
  CLI::App* command =
      AddCommand(registry, job, verb, help, [verb, method, request](Session& session) {
        return Change(session, verb, method, *request);
      });
  command
      ->add_option_function<std::string>(
          "JOB", [request](const std::string& name) { request->set_job(name); }, "Name or id")
      ->required();
}

void AddRepin(Registry& registry, CLI::App& job) {
  const auto request = std::make_shared<v1::RepinJobRequest>();
  CLI::App* repin =
      AddCommand(registry, job, "repin", "Let a job that does not run go on with other last bits",
                 [request](Session& session) {
                   return Change(session, "repin", &JobService::Stub::RepinJob, *request);
                 });
  repin
      ->add_option_function<std::string>(
          "JOB", [request](const std::string& name) { request->set_job(name); }, "Name or id")
      ->required();
  repin
      ->add_option_function<std::string>(
          "--numerics", [request](const std::string& name) { request->set_numerics(name); },
          "What to pin it to, as `worker get` shows it (default: what its next start has)")
      ->type_name("NAME");
}

void AddScale(Registry& registry, CLI::App& job) {
  const auto request = std::make_shared<v1::ScaleJobRequest>();
  CLI::App* scale =
      AddCommand(registry, job, "scale", "Change a job's world size", [request](Session& session) {
        return Change(session, "scale", &JobService::Stub::ScaleJob, *request);
      });
  scale
      ->add_option_function<std::string>(
          "JOB", [request](const std::string& name) { request->set_job(name); }, "Name or id")
      ->required();
  scale
      ->add_option_function<int>(
          "--min", [request](int n) { request->set_min(n); }, "Fewest devices")
      ->required()
      ->type_name("N");
  scale
      ->add_option_function<int>(
          "--max", [request](int n) { request->set_max(n); }, "Most devices")
      ->required()
      ->type_name("N");
}

}  // namespace

void AddJobCommands(Registry& registry) {
  CLI::App* job = AddGroup(registry, "job", "Training jobs");
  AddJobSubmitCommands(registry, *job);

  const auto states = std::make_shared<std::vector<std::string>>();
  CLI::App* list = AddCommand(registry, *job, "list", "List jobs, newest first",
                              [states](Session& session) { return List(session, *states); });
  list->add_option("--state", *states, "Only jobs in this state (running, failed, …); repeatable")
      ->type_name("STATE")
      ->allow_extra_args(false);

  const auto name = std::make_shared<std::string>();
  CLI::App* get = AddCommand(registry, *job, "get", "Show everything about a job",
                             [name](Session& session) { return Get(session, *name); });
  get->add_option("JOB", *name, "Name or id")->required();
  AddJobStreamCommands(registry, *job);
  CLI::App* why = AddCommand(registry, *job, "why", "Say why a job is in its state",
                             [name](Session& session) { return Why(session, *name); });
  why->add_option("JOB", *name, "Name or id")->required();

  AddChange(registry, *job, "cancel", "Cancel a job", &JobService::Stub::CancelJob);
  AddChange(registry, *job, "pause", "Checkpoint a job and release its devices",
            &JobService::Stub::PauseJob);
  AddChange(registry, *job, "resume", "Queue a paused job again", &JobService::Stub::ResumeJob);
  AddScale(registry, *job);
  AddRepin(registry, *job);
  AddChange(registry, *job, "delete", "Forget a finished job; its checkpoints stay",
            &JobService::Stub::DeleteJob);
}

}  // namespace mindforge::cli
