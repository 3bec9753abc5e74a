// `mindforge job submit`, `example` and `watch`.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/app.h"
#include "cli/follow.h"
#include "cli/job_file.h"
#include "cli/job_view.h"
#include "cli/rpc.h"
#include "common/config.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/job_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

struct SubmitFlags {
  std::string file;
  std::vector<std::string> overrides;
  std::string request_id;
  bool dry_run = false;
  bool follow = false;
  bool wait = false;
};

void PrintDryRun(Session& session, const v1::Job& job) {
  session.Note("the job file is good; nothing was submitted (--dry-run)");
  if (session.structured()) {
    session.PrintMessage(job);
  } else if (session.options.output == OutputFormat::kName) {
    session.out() << job.spec().name() << "\n";
  } else {
    session.out() << ProtoToYaml(job.spec());  // complete: with the defaults filled in
  }
}

absl::StatusOr<ExitCode> Submit(Session& session, const SubmitFlags& flags) {
  ASSIGN_OR_RETURN(const JobFile file, LoadJobFile(flags.file, std::cin, flags.overrides));
  for (const std::string& note : file.notes) session.Note(note);
  v1::SubmitJobRequest request;
  *request.mutable_job() = file.spec;
  request.set_request_id(flags.request_id.empty() ? RandomUuid() : flags.request_id);
  request.set_validate_only(flags.dry_run);
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = v1::JobService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::SubmitJobResponse response,
                   Call(session,
                        {.what = absl::StrCat("submit job '", file.spec.name(), "'"),
                         .request_id = request.request_id(),
                         .takes_request_id = true},
                        *stub, &v1::JobService::Stub::SubmitJob, request));
  for (const std::string& warning : response.warnings()) {
    session.Note(absl::StrCat("warning: ", warning));
  }
  if (flags.dry_run) {
    PrintDryRun(session, response.job());
    return ExitCode::kOk;
  }
  if (response.already_submitted()) {
    session.Note(absl::StrCat("request id ", request.request_id(),
                              " is known: this is the job of that earlier submit"));
  }
  const v1::Job& job = response.job();
  if (!flags.follow && !flags.wait) {
    PrintJob(session, job);
    return ExitCode::kOk;
  }
  session.Note(absl::StrCat("job '", job.spec().name(), "' (", job.id(),
                            ") is submitted; Ctrl-C detaches and leaves it running"));
  ASSIGN_OR_RETURN(const v1::Job ended, FollowJob(session, *stub,
                                                  {.job = job.id(),
                                                   .shown_name = job.spec().name(),
                                                   .quiet = flags.wait && !flags.follow,
                                                   .connected = true,
                                                   .progress_only = true},
                                                  session.err(), session.err_terminal()));
  PrintJob(session, ended);
  return ExitCodeOfJob(ended.state());
}

absl::StatusOr<ExitCode> Watch(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = v1::JobService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::Job ended, FollowJob(session, *stub, {.job = job, .shown_name = job},
                                                  session.out(), session.out_terminal()));
  return ExitCodeOfJob(ended.state());
}

}  // namespace

void AddJobSubmitCommands(Registry& registry, CLI::App& job) {
  const auto flags = std::make_shared<SubmitFlags>();
  CLI::App* submit = AddCommand(registry, job, "submit", "Submit a job file",
                                [flags](Session& session) { return Submit(session, *flags); });
  submit->add_option("-f,--file", flags->file, "Job file (YAML); - reads stdin")
      ->required()
      ->type_name("FILE");
  submit->add_option("--set", flags->overrides, "Override a field: training.learning_rate=1e-3")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  submit
      ->add_option("--request-id", flags->request_id,
                   "Names this submission: the same id is the same job (default: random)")
      ->type_name("ID");
  submit->add_flag("--dry-run", flags->dry_run, "Check the job file and submit nothing");
  CLI::Option* follow =
      submit->add_flag("--follow", flags->follow, "Show progress until the job ends");
  submit->add_flag("--wait", flags->wait, "Wait silently until the job ends")->excludes(follow);

  AddCommand(registry, job, "example", "Print a commented job file",
             [](Session& session) -> absl::StatusOr<ExitCode> {
               if (!session.structured()) {
                 session.out() << ExampleJobFile();
                 return ExitCode::kOk;
               }
               v1::JobSpec spec;
               RETURN_IF_ERROR(ParseYaml(ExampleJobFile(), "example", &spec));
               session.PrintMessage(spec);
               return ExitCode::kOk;
             });

  const auto name = std::make_shared<std::string>();
  CLI::App* watch = AddCommand(registry, job, "watch", "Show a job's progress until it ends",
                               [name](Session& session) { return Watch(session, *name); });
  watch->add_option("JOB", *name, "Name or id")->required();
}

}  // namespace mindforge::cli
