// `mindforge doctor`: looks at everything a user can get wrong, one line each, with the remedy.
#include <sys/statvfs.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/app.h"
#include "cli/format.h"
#include "cli/job_list.h"
#include "cli/json_output.h"
#include "cli/rpc.h"
#include "common/durable_file.h"
#include "common/grpc_server.h"
#include "common/net.h"
#include "common/version.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "mindforge/v1/deployment_service.grpc.pb.h"
#include "mindforge/v1/job_service.grpc.pb.h"
#include "mindforge/v1/worker_service.grpc.pb.h"

namespace mindforge::cli {
namespace {

constexpr absl::Duration kCheckTimeout = absl::Seconds(5);
constexpr int64_t kLowDisk = int64_t{5} << 30;
constexpr int64_t kNoDisk = int64_t{512} << 20;
constexpr size_t kMaxPemBytes = 4 << 20;

// The examination so far.
class Report {
 public:
  void Ok(const std::string& name, const std::string& detail) { Add(name, "ok", detail, ""); }
  void Warn(const std::string& name, const std::string& detail, const std::string& remedy) {
    Add(name, "warn", detail, remedy);
  }
  void Fail(const std::string& name, const std::string& detail, const std::string& remedy,
            ExitCode code = ExitCode::kFailed) {
    Add(name, "fail", detail, remedy);
    if (code_ == ExitCode::kOk) code_ = code;
  }
  // The first failure's.
  ExitCode code() const { return code_; }

  void Print(Session& session) const {
    if (session.structured()) {
      nlohmann::ordered_json checks = nlohmann::ordered_json::array();
      for (const Check& check : checks_) {
        checks.push_back({{"check", check.name},
                          {"result", check.result},
                          {"detail", check.detail},
                          {"remedy", check.remedy}});
      }
      PrintJson(session, {{"ok", code_ == ExitCode::kOk}, {"checks", checks}});
      return;
    }
    for (const Check& check : checks_) {
      const Style style = check.result == "ok"     ? Style::kGood
                          : check.result == "warn" ? Style::kWarn
                                                   : Style::kBad;
      session.out() << Styled(session.out_terminal(), style, check.result)
                    << std::string(6 - check.result.size(), ' ') << check.name << ": "
                    << EscapeControls(check.detail) << "\n";
      if (!check.remedy.empty()) session.out() << "      -> " << check.remedy << "\n";
    }
  }

 private:
  struct Check {
    std::string name, result, detail, remedy;
  };
  void Add(const std::string& name, const std::string& result, const std::string& detail,
           const std::string& remedy) {
    checks_.push_back({name, result, detail, remedy});
  }

  std::vector<Check> checks_;
  ExitCode code_ = ExitCode::kOk;
};

void CheckFiles(const GlobalOptions& options, Report& report) {
  if (options.token_file.empty()) {
    report.Ok("token", "none given (a server on loopback needs none)");
  } else if (const auto token = ReadTokenFile(options.token_file); token.ok()) {
    report.Ok("token", absl::StrCat(options.token_file, " is readable"));
  } else {
    report.Fail("token", std::string(token.status().message()),
                "give a readable file whose first line is the token: --token-file",
                ExitCode::kUsage);
  }
  if (options.tls_ca.empty()) {
    report.Ok("tls", "no --tls-ca: the connection is not encrypted");
    return;
  }
  const auto pem = ReadFile(options.tls_ca, kMaxPemBytes);
  if (!pem.ok()) {
    report.Fail("tls", std::string(pem.status().message()), "give a readable PEM file: --tls-ca",
                ExitCode::kUsage);
  } else if (pem->find("-----BEGIN CERTIFICATE-----") == std::string::npos) {
    report.Fail("tls", absl::StrCat(options.tls_ca, " holds no PEM certificate"),
                "--tls-ca takes the authority's certificate, not its key", ExitCode::kUsage);
  } else {
    report.Ok("tls", absl::StrCat(options.tls_ca, " is readable"));
  }
}

void CheckDisk(Report& report) {
  struct statvfs disk = {};
  if (statvfs(".", &disk) != 0) {
    report.Warn("disk", "the working directory cannot be looked at", "cd to one that exists");
    return;
  }
  const int64_t free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  const std::string detail = absl::StrCat(Bytes(free), " free in the working directory");
  const std::string remedy =
      "checkpoints and token caches need room; free some, or set checkpoint.dir elsewhere";
  if (free < kNoDisk) {
    report.Fail("disk", detail, remedy);
  } else if (free < kLowDisk) {
    report.Warn("disk", detail, remedy);
  } else {
    report.Ok("disk", detail);
  }
}

using Channel = std::shared_ptr<grpc::Channel>;
using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

bool CheckReachable(Session& session, const Channel& channel, Report& report) {
  const auto stub = Health::NewStub(channel);
  const absl::Time start = absl::Now();
  const auto health = Call(session, {.what = "reach the server", .timeout = kCheckTimeout}, *stub,
                           &Health::Stub::Check, HealthCheckRequest());
  const std::string& server = session.options.server;
  if (!health.ok()) {
    report.Fail("server", std::string(health.status().message()),
                absl::StrCat("start mindforge-coordinator at ", server,
                             ", or give the right --server (MINDFORGE_SERVER); a server with TLS "
                             "needs --tls-ca"),
                ExitCodeOf(health.status()));
    return false;
  }
  const std::string detail =
      absl::StrCat(server, " answers in ", ShortDuration(absl::Now() - start));
  if (health->status() != HealthCheckResponse::SERVING) {
    report.Warn("server", detail + ", but is not serving (starting or draining)",
                "wait, or start it again");
  } else {
    report.Ok("server", detail);
  }
  return true;
}

void CheckHealth(Session& session, const Channel& channel, Report& report) {
  const auto stub = Health::NewStub(channel);
  std::vector<std::string> serving, not_serving;
  for (const std::string name : {"JobService", "WorkerService", "CheckpointService",
                                 "DeploymentService", "InferenceService"}) {
    HealthCheckRequest request;
    request.set_service("mindforge.v1." + name);
    const auto health = Call(session, {.what = "check " + name, .timeout = kCheckTimeout}, *stub,
                             &Health::Stub::Check, request);
    const bool good = health.ok() && health->status() == HealthCheckResponse::SERVING;
    (good ? serving : not_serving).push_back(name);
  }
  if (not_serving.empty()) {
    report.Ok("health", absl::StrJoin(serving, ", ") + " are serving");
  } else {
    report.Warn("health", absl::StrJoin(not_serving, ", ") + " not serving",
                "InferenceService serves once a model is deployed and loaded; for others see the "
                "server's log");
  }
}

void CheckDevices(const v1::ListWorkersResponse& response, Report& report) {
  int devices = 0, busy = 0;
  std::map<std::string, std::set<std::string>> numerics;  // by kind
  for (const v1::Worker& worker : response.workers()) {
    if (worker.state() != v1::WORKER_STATE_READY) continue;
    for (const v1::WorkerDevice& device : worker.devices()) {
      ++devices;
      busy += !device.job_id().empty();
      const bool cuda = device.device().kind() == v1::DEVICE_KIND_CUDA;
      numerics[cuda ? "cuda" : "cpu"].insert(NumericsOf(device.device()));
    }
  }
  const std::string detail = absl::StrCat(devices, " usable, ", busy, " busy");
  if (devices == 0) {
    report.Warn("devices", detail, "no job can start; see `mindforge worker list`");
    return;
  }
  for (const auto& [kind, of_kind] : numerics) {
    if (of_kind.size() < 2) continue;
    report.Warn(
        "devices",
        absl::StrCat(detail, "; ", kind, " devices differ: ", absl::StrJoin(of_kind, " | ")),
        "one job uses devices with the same numerics and workers of one build only");
    return;
  }
  report.Ok("devices", detail);
}

void CheckWorkers(Session& session, const Channel& channel, Report& report) {
  const auto stub = v1::WorkerService::NewStub(channel);
  const auto response = Call(session, {.what = "list workers", .timeout = kCheckTimeout}, *stub,
                             &v1::WorkerService::Stub::ListWorkers, v1::ListWorkersRequest());
  if (!response.ok()) {
    report.Fail("workers", std::string(response.status().message()),
                response.status().code() == absl::StatusCode::kUnauthenticated
                    ? "give the server's token: --token-file or MINDFORGE_TOKEN_FILE"
                    : "see the server's log",
                ExitCodeOf(response.status()));
    return;
  }
  std::vector<std::string> lost, other_version;
  for (const v1::Worker& worker : response->workers()) {
    if (worker.state() == v1::WORKER_STATE_LOST) lost.push_back(worker.name());
    if (worker.version().find(kVersion) == std::string::npos) {
      other_version.push_back(absl::StrCat(worker.name(), " ", worker.version()));
    }
  }
  const std::string count = absl::StrCat(response->workers_size(), " known");
  if (response->workers().empty()) {
    report.Warn("workers", count,
                absl::StrCat("start one: mindforge-worker --coordinator ", session.options.server));
  } else if (!lost.empty()) {
    report.Warn("workers", absl::StrCat(count, ", lost: ", absl::StrJoin(lost, ", ")),
                "look at mindforge-worker on those hosts");
  } else {
    report.Ok("workers", count);
  }
  if (other_version.empty()) {
    report.Ok("version", absl::StrCat("mindforge ", kVersion));
  } else {
    report.Warn("version",
                absl::StrCat("this is ", kVersion,
                             "; workers differ: ", absl::StrJoin(other_version, ", ")),
                "install the same version everywhere");
  }
  CheckDevices(*response, report);
}

void CheckJobs(Session& session, const Channel& channel, Report& report) {
  const auto stub = v1::JobService::NewStub(channel);
  v1::ListJobsRequest request;  // a server that has run for long knows many that have ended
  for (int i = 1; i < v1::JobState_ARRAYSIZE; ++i) {
    const auto state = static_cast<v1::JobState>(i);
    if (v1::JobState_IsValid(i) && !IsFinal(state)) request.add_states(state);
  }
  const auto response = ListAllJobs(session, *stub, request, kCheckTimeout);
  if (!response.ok()) {
    report.Fail("jobs", std::string(response.status().message()), "see the server's log",
                ExitCodeOf(response.status()));
    return;
  }
  int queued = 0, live = 0;
  for (const v1::Job& job : response->jobs()) {
    queued += job.state() == v1::JOB_STATE_QUEUED;
    live += !IsFinal(job.state());
  }
  const std::string detail = absl::StrCat(live, " live, ", queued, " of them queued");
  if (queued > 0) {
    report.Warn("jobs", detail, "`mindforge job why JOB` says what a queued job waits for");
  } else {
    report.Ok("jobs", detail);
  }
}

void CheckDeployments(Session& session, const Channel& channel, Report& report) {
  const auto stub = v1::DeploymentService::NewStub(channel);
  const auto response =
      Call(session, {.what = "list models", .timeout = kCheckTimeout}, *stub,
           &v1::DeploymentService::Stub::ListDeployments, v1::ListDeploymentsRequest());
  if (!response.ok()) {
    report.Fail("models", std::string(response.status().message()), "see the server's log",
                ExitCodeOf(response.status()));
    return;
  }
  std::vector<std::string> waiting;
  for (const v1::Deployment& one : response->deployments()) {
    if (one.state() == v1::DEPLOYMENT_STATE_SERVING) continue;
    waiting.push_back(absl::StrCat(one.spec().name(), " (", one.reason(), ")"));
  }
  if (waiting.empty()) {
    report.Ok("models", absl::StrCat(response->deployments_size(), " deployed, all serving"));
  } else {
    report.Warn("models", absl::StrCat("not serving: ", absl::StrJoin(waiting, ", ")),
                "`mindforge model get NAME` says more; is a mindforge-inference running?");
  }
}

absl::StatusOr<ExitCode> Doctor(Session& session) {
  Report report;
  CheckFiles(session.options, report);
  CheckDisk(report);
  if (const auto channel = session.Connect(); !channel.ok()) {
    report.Fail("server", std::string(channel.status().message()),
                "correct --server, --tls-ca or --token-file", ExitCode::kUsage);
  } else if (CheckReachable(session, *channel, report)) {
    CheckHealth(session, *channel, report);
    CheckWorkers(session, *channel, report);
    CheckJobs(session, *channel, report);
    CheckDeployments(session, *channel, report);
  }
  if (session.interrupted()) return absl::CancelledError("interrupted");
  report.Print(session);
  return report.code();
}

}  // namespace

void AddDoctorCommand(Registry& registry) {
  AddCommand(registry, registry.app, "doctor", "Check server, workers, models and this machine",
             Doctor);
}

}  // namespace mindforge::cli
