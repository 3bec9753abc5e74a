// `mindforge checkpoint`: the committed checkpoints of a job.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/key_values.h"
#include "cli/rpc.h"
#include "cli/table.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/checkpoint_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

using v1::CheckpointService;

constexpr absl::Duration kVerifyPoll = absl::Milliseconds(250);

Cell StateCell(const v1::Checkpoint& checkpoint) {
  std::string name = v1::CheckpointState_Name(checkpoint.state());
  if (name.empty()) name = absl::StrCat(static_cast<int>(checkpoint.state()));
  name = std::string(absl::StripPrefix(name, "CHECKPOINT_STATE_"));
  return {name, checkpoint.state() == v1::CHECKPOINT_STATE_CORRUPT ? Style::kBad : Style::kPlain};
}

Cell VerificationCell(const v1::Checkpoint& checkpoint) {
  switch (checkpoint.verification()) {
    case v1::VERIFICATION_STATE_PENDING:
      return "pending";
    case v1::VERIFICATION_STATE_VALID:
      return {"valid", Style::kGood};
    case v1::VERIFICATION_STATE_CORRUPT:
      return {"corrupt", Style::kBad};
    case v1::VERIFICATION_STATE_UNREADABLE:
      return {"unreadable", Style::kWarn};
    default:
      return "-";
  }
}

void PrintCheckpoints(Session& session,
                      const google::protobuf::RepeatedPtrField<v1::Checkpoint>& checkpoints) {
  if (session.options.output == OutputFormat::kName) {
    for (const v1::Checkpoint& one : checkpoints) session.out() << one.step() << "\n";
    return;
  }
  Table table({{.title = "STEP", .right = true},
               {.title = "STATE"},
               {.title = "LOSS", .right = true},
               {.title = "VALIDATION", .right = true, .wide_only = true},
               {.title = "SIZE", .right = true},
               {.title = "AGE", .right = true},
               {.title = "PINNED"},
               {.title = "VERIFIED"},
               {.title = "GENERATION", .right = true, .wide_only = true},
               {.title = "DIGEST", .wide_only = true},
               {.title = "PATH", .shrinks = true}});
  for (const v1::Checkpoint& one : checkpoints) {
    table.AddRow({absl::StrCat(one.step()), StateCell(one), Loss(one.loss()),
                  one.has_validation_loss() ? Loss(one.validation_loss()) : "-",
                  Bytes(one.size_bytes()), Age(one.committed_at()), one.pinned() ? "yes" : "-",
                  VerificationCell(one), absl::StrCat(one.generation()), one.manifest_digest(),
                  one.path()});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

void PrintCheckpoint(Session& session, const v1::Checkpoint& checkpoint) {
  if (session.structured()) {
    session.PrintMessage(checkpoint);
    return;
  }
  google::protobuf::RepeatedPtrField<v1::Checkpoint> one;
  *one.Add() = checkpoint;
  PrintCheckpoints(session, one);
}

void DescribeCheckpoint(Session& session, const v1::Checkpoint& one) {
  KeyValues lines;
  lines.Add("Job", one.job_id());
  lines.Add("Step", absl::StrCat(one.step()));
  lines.Add("Generation", absl::StrCat(one.generation()));
  lines.Add("State", StateCell(one).text);
  lines.Add("Loss", Loss(one.loss()));
  lines.Add("Validation", one.has_validation_loss() ? Loss(one.validation_loss()) : "");
  lines.Add("Path", one.path());
  lines.Add("Size", Bytes(one.size_bytes()));
  lines.Add("Committed", Moment(one.committed_at()));
  lines.Add("Pinned", one.pinned() ? "yes" : "no");
  lines.Add("Digest", one.manifest_digest());
  lines.Add("Verified", VerificationCell(one).text);
  lines.Add("Verified at", one.has_verified_at() ? Moment(one.verified_at()) : "");
  lines.Add("Detail", one.verification_detail());
  lines.Print(session.out());
}

struct Which {
  std::string job;
  int64_t step = 0;

  std::string Describe() const { return absl::StrCat("checkpoint ", step, " of job '", job, "'"); }
};

absl::StatusOr<ExitCode> List(Session& session, const std::string& job) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = CheckpointService::NewStub(channel);
  v1::ListCheckpointsRequest request;
  request.set_job(job);
  ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse response,
                   Call(session, {.what = absl::StrCat("list the checkpoints of job '", job, "'")},
                        *stub, &CheckpointService::Stub::ListCheckpoints, request));
  if (session.structured()) {
    session.PrintMessage(response);
    return ExitCode::kOk;
  }
  if (response.checkpoints().empty()) session.Note("no checkpoint is committed yet");
  PrintCheckpoints(session, response.checkpoints());
  return ExitCode::kOk;
}

absl::StatusOr<v1::Checkpoint> Fetch(Session& session, CheckpointService::Stub& stub,
                                     const Which& which) {
  v1::GetCheckpointRequest request;
  request.set_job(which.job);
  request.set_step(which.step);
  ASSIGN_OR_RETURN(v1::GetCheckpointResponse response,
                   Call(session, {.what = "get " + which.Describe()}, stub,
                        &CheckpointService::Stub::GetCheckpoint, request));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<ExitCode> Get(Session& session, const Which& which) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = CheckpointService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, Fetch(session, *stub, which));
  if (session.structured() || session.options.output == OutputFormat::kName) {
    PrintCheckpoint(session, checkpoint);
  } else {
    DescribeCheckpoint(session, checkpoint);
  }
  return ExitCode::kOk;
}

// A worker reads the folder back; this waits for what it says.
absl::StatusOr<ExitCode> Verify(Session& session, const Which& which) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = CheckpointService::NewStub(channel);
  v1::VerifyCheckpointRequest request;
  request.set_job(which.job);
  request.set_step(which.step);
  request.set_request_id(RandomUuid());
  ASSIGN_OR_RETURN(
      const v1::VerifyCheckpointResponse response,
      Call(session, {.what = "verify " + which.Describe(), .request_id = request.request_id()},
           *stub, &CheckpointService::Stub::VerifyCheckpoint, request));
  v1::Checkpoint checkpoint = response.checkpoint();
  while (checkpoint.verification() == v1::VERIFICATION_STATE_PENDING) {
    if (!session.Pause(kVerifyPoll)) {
      if (session.interrupted()) {
        session.Note("the check goes on; `mindforge checkpoint get` shows its result");
        return absl::CancelledError("interrupted");
      }
      return absl::DeadlineExceededError(
          absl::StrCat("--timeout ran out while a worker was reading ", which.Describe()));
    }
    ASSIGN_OR_RETURN(checkpoint, Fetch(session, *stub, which));
  }
  PrintCheckpoint(session, checkpoint);
  if (checkpoint.verification() == v1::VERIFICATION_STATE_VALID) return ExitCode::kOk;
  if (checkpoint.verification() == v1::VERIFICATION_STATE_UNREADABLE) {
    return absl::UnavailableError(absl::StrCat(
        which.Describe(), " could not be read, so nothing is known of its content; ",
        checkpoint.verification_detail(), ". Make ", checkpoint.path(),
        " readable on that worker (is its storage mounted there?), then verify again."));
  }
  return absl::DataLossError(absl::StrCat(
      which.Describe(), " does not read back as it was written: ", checkpoint.verification_detail(),
      ". It is never loaded again; use another of "
      "`mindforge checkpoint list ",
      which.job, "`."));
}

CLI::App* AddWhich(CLI::App* command, const std::shared_ptr<Which>& which) {
  command->add_option("JOB", which->job, "Name or id of the job")->required();
  command->add_option("STEP", which->step, "Step of the checkpoint")->required();
  return command;
}

template <typename Request, typename Response>
void AddChange(Registry& registry, CLI::App& group, const std::string& verb,
               const std::string& help,
               grpc::Status (CheckpointService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               Response*)) {
  const auto which = std::make_shared<Which>();
  const Action action = [verb, method, which](Session& session) -> absl::StatusOr<ExitCode> {
    ASSIGN_OR_RETURN(auto channel, session.Connect());
    const auto stub = CheckpointService::NewStub(channel);
    Request request;
    request.set_job(which->job);
    request.set_step(which->step);
    request.set_request_id(RandomUuid());
    ASSIGN_OR_RETURN(const Response response,
                     Call(session,
                          {.what = absl::StrCat(verb, " ", which->Describe()),
                           .request_id = request.request_id()},
                          *stub, method, request));
    if constexpr (requires { response.checkpoint(); }) {
      PrintCheckpoint(session, response.checkpoint());
    } else if (session.structured()) {
      session.PrintMessage(response);
    } else {
      session.Note(which->Describe() + " is being deleted");
    }
    return ExitCode::kOk;
  };
  AddWhich(AddCommand(registry, group, verb, help, action), which);
}

}  // namespace

void AddCheckpointCommands(Registry& registry) {
  CLI::App* group = AddGroup(registry, "checkpoint", "Committed checkpoints of a job");
  const auto job = std::make_shared<std::string>();
  CLI::App* list = AddCommand(registry, *group, "list", "List a job's checkpoints, newest first",
                              [job](Session& session) { return List(session, *job); });
  list->add_option("JOB", *job, "Name or id of the job")->required();
  const auto which = std::make_shared<Which>();
  AddWhich(AddCommand(registry, *group, "get", "Show a checkpoint",
                      [which](Session& session) { return Get(session, *which); }),
           which);
  AddWhich(AddCommand(registry, *group, "verify",
                      "Have a worker read a checkpoint back; exit status 0: valid, 1: corrupt",
                      [which](Session& session) { return Verify(session, *which); }),
           which);
  AddChange(registry, *group, "pin", "Keep a checkpoint whatever retention says",
            &CheckpointService::Stub::PinCheckpoint);
  AddChange(registry, *group, "unpin", "Leave a checkpoint to retention again",
            &CheckpointService::Stub::UnpinCheckpoint);
  AddChange(registry, *group, "delete", "Delete a checkpoint",
            &CheckpointService::Stub::DeleteCheckpoint);
  AddModelFileCommands(registry, *group);
}

}  // namespace mindforge::cli
