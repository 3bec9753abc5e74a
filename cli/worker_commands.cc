// `mindforge worker`: the training nodes.
#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/key_values.h"
#include "cli/rpc.h"
#include "cli/table.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "mindforge/v1/worker_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

using v1::WorkerService;

Cell WorkerStateCell(v1::WorkerState state) {
  std::string name = v1::WorkerState_Name(state);
  if (name.empty()) name = absl::StrCat(static_cast<int>(state));
  name = std::string(absl::StripPrefix(name, "WORKER_STATE_"));
  if (state == v1::WORKER_STATE_READY) return {name, Style::kGood};
  return {name, state == v1::WORKER_STATE_LOST ? Style::kBad : Style::kWarn};
}

int BusyDevices(const v1::Worker& worker) {
  int busy = 0;
  for (const v1::WorkerDevice& device : worker.devices()) busy += !device.job_id().empty();
  return busy;
}

std::string Jobs(const v1::Worker& worker) {
  std::set<std::string> jobs;
  for (const v1::WorkerDevice& device : worker.devices()) {
    if (!device.job_id().empty()) jobs.insert(device.job_id());
  }
  return absl::StrJoin(jobs, ",");
}

// For how long still nothing new is placed there.
Cell SetAside(const v1::WorkerDevice& device) {
  if (device.set_aside_reason().empty()) return {"-"};
  const absl::Duration left = ToTime(device.set_aside_until()) - absl::Now();
  return {ShortDuration(std::max(left, absl::ZeroDuration())), Style::kWarn};
}

void PrintWorkers(Session& session, const google::protobuf::RepeatedPtrField<v1::Worker>& workers) {
  if (session.options.output == OutputFormat::kName) {
    for (const v1::Worker& worker : workers) session.out() << EscapeControls(worker.name()) << "\n";
    return;
  }
  Table table({{.title = "NAME"},
               {.title = "ID", .wide_only = true},
               {.title = "STATE"},
               {.title = "DEVICES", .right = true},
               {.title = "BUSY", .right = true},
               {.title = "JOBS", .shrinks = true},
               {.title = "ADDRESS", .wide_only = true},
               {.title = "VERSION", .wide_only = true},
               {.title = "SEEN", .right = true},
               {.title = "REASON", .shrinks = true}});
  for (const v1::Worker& worker : workers) {
    table.AddRow({worker.name(), worker.id(), WorkerStateCell(worker.state()),
                  absl::StrCat(worker.devices_size()), absl::StrCat(BusyDevices(worker)),
                  Jobs(worker), worker.address(), worker.version(), Age(worker.last_seen_at()),
                  worker.reason()});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
}

void PrintWorker(Session& session, const v1::Worker& worker) {
  if (session.structured()) {
    session.PrintMessage(worker);
    return;
  }
  google::protobuf::RepeatedPtrField<v1::Worker> one;
  *one.Add() = worker;
  PrintWorkers(session, one);
}

void DescribeWorker(Session& session, const v1::Worker& worker) {
  KeyValues lines;
  lines.Add("Name", worker.name());
  lines.Add("Id", worker.id());
  lines.Add("State", WorkerStateCell(worker.state()).text);
  lines.Add("Reason", worker.reason());
  lines.Add("Address", worker.address());
  lines.Add("Version", worker.version());
  lines.Add("Last seen", absl::StrCat(Age(worker.last_seen_at()), " ago"));
  lines.Print(session.out());
  session.out() << "\n";
  Table table({{.title = "DEVICE"},
               {.title = "MODEL", .shrinks = true},
               {.title = "MEMORY", .right = true},
               {.title = "THREADS", .right = true},
               {.title = "JOB"},
               {.title = "RANK", .right = true},
               {.title = "SET ASIDE", .right = true},
               {.title = "NUMERICS", .shrinks = true, .wide_only = true}});
  for (const v1::WorkerDevice& device : worker.devices()) {
    const bool busy = !device.job_id().empty();
    table.AddRow({device.device().id(), device.device().model(),
                  Bytes(device.device().memory_bytes()), absl::StrCat(device.device().threads()),
                  busy ? device.job_id() : "-", busy ? absl::StrCat(device.rank()) : "-",
                  SetAside(device), NumericsOf(device.device())});
  }
  table.Print(session.out(), session.out_terminal(), session.wide());
  for (const v1::WorkerDevice& device : worker.devices()) {
    if (device.set_aside_reason().empty()) continue;
    session.out() << "\n"
                  << EscapeControls(absl::StrCat(device.device().id(), " is set aside after ",
                                                 device.set_aside_reason()))
                  << "\nmindforge worker resume " << EscapeControls(worker.name())
                  << " uses it again at once.\n";
  }
}

absl::StatusOr<ExitCode> List(Session& session) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = WorkerService::NewStub(channel);
  ASSIGN_OR_RETURN(const v1::ListWorkersResponse response,
                   Call(session, {.what = "list workers"}, *stub, &WorkerService::Stub::ListWorkers,
                        v1::ListWorkersRequest()));
  if (session.structured()) {
    session.PrintMessage(response);
    return ExitCode::kOk;
  }
  if (response.workers().empty()) {
    session.Note("no workers; start one with: mindforge-worker --coordinator " +
                 session.options.server);
  }
  PrintWorkers(session, response.workers());
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Get(Session& session, const std::string& name) {
  ASSIGN_OR_RETURN(auto channel, session.Connect());
  const auto stub = WorkerService::NewStub(channel);
  v1::GetWorkerRequest request;
  request.set_worker(name);
  ASSIGN_OR_RETURN(const v1::GetWorkerResponse response,
                   Call(session, {.what = absl::StrCat("get worker '", name, "'")}, *stub,
                        &WorkerService::Stub::GetWorker, request));
  if (session.structured() || session.options.output == OutputFormat::kName) {
    PrintWorker(session, response.worker());
  } else {
    DescribeWorker(session, response.worker());
  }
  return ExitCode::kOk;
}

template <typename Request, typename Response>
void AddChange(Registry& registry, CLI::App& group, const std::string& verb,
               const std::string& help,
               grpc::Status (WorkerService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*)) {
  const auto name = std::make_shared<std::string>();
  CLI::App* command =
      AddCommand(registry, group, verb, help,
                 [verb, method, name](Session& session) -> absl::StatusOr<ExitCode> {
                   ASSIGN_OR_RETURN(auto channel, session.Connect());
                   const auto stub = WorkerService::NewStub(channel);
                   Request request;
                   request.set_worker(*name);
                   request.set_request_id(RandomUuid());
                   ASSIGN_OR_RETURN(const Response response,
                                    Call(session,
                                         {.what = absl::StrCat(verb, " worker '", *name, "'"),
                                          .request_id = request.request_id()},
                                         *stub, method, request));
                   PrintWorker(session, response.worker());
                   return ExitCode::kOk;
                 });
  command->add_option("WORKER", *name, "Name or id")->required();
}

}  // namespace

void AddWorkerCommands(Registry& registry) {
  CLI::App* group = AddGroup(registry, "worker", "Training nodes");
  AddCommand(registry, *group, "list", "List workers", List);
  const auto name = std::make_shared<std::string>();
  CLI::App* get = AddCommand(registry, *group, "get", "Show a worker and its devices",
                             [name](Session& session) { return Get(session, *name); });
  get->add_option("WORKER", *name, "Name or id")->required();
  AddChange(registry, *group, "drain", "Give a worker nothing new",
            &WorkerService::Stub::DrainWorker);
  AddChange(registry, *group, "resume", "Use a drained worker, or devices set aside, again",
            &WorkerService::Stub::ResumeWorker);
}

}  // namespace mindforge::cli
