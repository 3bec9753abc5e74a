#include "coordinator/coordinator.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/duration.h"
#include "common/error_details.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "coordinator/jobs_of_shell.h"
#include "coordinator/rpc/convert.h"
#include "coordinator/store/sqlite_store.h"

namespace mindforge {
namespace {

// Agents give up a call after 30 s: what is parked has to be answered well before.
constexpr absl::Duration kLongestPark = absl::Seconds(20);

}  // namespace

absl::StatusOr<CoordinatorOptions> ParseOptions(const v1::CoordinatorConfig& config) {
  CoordinatorOptions options;
  std::vector<FieldViolation> problems;
  const auto duration = [&](const char* field, const std::string& text, absl::Duration* out,
                            absl::Duration least, absl::Duration most = absl::Hours(24)) {
    if (text.empty()) return;
    const absl::StatusOr<absl::Duration> parsed = ParseDuration(text);
    if (!parsed.ok()) {
      problems.push_back({field, std::string(parsed.status().message())});
    } else if (*parsed < least || *parsed > most) {
      problems.push_back({field, absl::StrCat("is ", text, ", must be from ", FormatDuration(least),
                                              " to ", FormatDuration(most))});
    } else {
      *out = *parsed;
    }
  };
  sched::Settings& settings = options.settings;
  duration("worker_lease", config.worker_lease(), &settings.worker_lease, absl::Milliseconds(100));
  duration("unreachable_timeout", config.unreachable_timeout(), &settings.unreachable_timeout,
           absl::Milliseconds(100));
  duration("synchronize_park", config.synchronize_park(), &options.synchronize_park,
           absl::Milliseconds(10), kLongestPark);
  duration("gather_window", config.gather_window(), &settings.gather_window, absl::ZeroDuration());
  duration("grow_cooldown", config.grow_cooldown(), &settings.grow_cooldown, absl::ZeroDuration());
  duration("hang_timeout", config.hang_timeout(), &settings.hang_timeout, absl::Seconds(1));
  duration("start_timeout", config.start_timeout(), &settings.start_timeout, absl::Seconds(1));
  if (config.synchronize_park().empty()) {
    options.synchronize_park = std::min(options.synchronize_park, settings.worker_lease / 2);
  }
  if (options.synchronize_park >= settings.worker_lease) {
    problems.push_back({"synchronize_park", "must be shorter than worker_lease"});
  }
  if (!problems.empty()) return InvalidArgument(problems, "INVALID_CONFIG");

  options.server.listen = config.listen().empty() ? "127.0.0.1:7070" : config.listen();
  options.server.tls = {config.tls().cert_file(), config.tls().key_file(), config.tls().ca_file()};
  options.server.token_file = config.token_file();
  options.server.insecure = config.insecure();
  if (!config.data_dir().empty()) options.data_dir = config.data_dir();
  if (!config.metrics().empty()) options.metrics = config.metrics();
  options.tensorboard_dir = config.tensorboard_dir();
  return options;
}

Coordinator::Coordinator(const CoordinatorOptions& options, const Clock& clock)
    : clock_(clock),
      metrics_host_(options.metrics.substr(0, options.metrics.rfind(':'))),
      registry_("mindforge-coordinator"),
      metrics_(registry_),
      inference_(clock, options.settings.worker_lease),
      streams_(options.streams) {}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Start(const CoordinatorOptions& options,
                                                                const Clock& clock) {
  RETURN_IF_ERROR(CheckServerExposure(options.server));
  std::unique_ptr<Coordinator> coordinator(new Coordinator(options, clock));
  ASSIGN_OR_RETURN(coordinator->store_, SqliteStore::Open(options.data_dir));
  RETURN_IF_ERROR(coordinator->StartServing(options));
  return coordinator;
}

absl::Status Coordinator::MakeTracker(const CoordinatorOptions& options) {
  if (options.tensorboard_dir == "off") return absl::OkStatus();
  Tracker::Options tracking;
  tracking.folder = options.tensorboard_dir.empty() ? JoinPath(options.data_dir, "tensorboard")
                                                    : options.tensorboard_dir;
  RETURN_IF_ERROR(MakeDirs(tracking.folder)) << "tensorboard_dir (\"off\" writes none)";
  tracked_jobs_ = std::make_unique<JobsOfShell>(shell_);
  tracker_ = std::make_unique<Tracker>(*store_, *tracked_jobs_, clock_, std::move(tracking));
  return absl::OkStatus();
}

absl::Status Coordinator::StartServing(const CoordinatorOptions& options) {
  ASSIGN_OR_RETURN(sched::Snapshot snapshot, store_->Load());
  for (sched::JobRecord& job : snapshot.jobs) {
    if (!sched::IsFinal(job.state)) FillFromSpec(job.spec, job.wish);
  }
  ASSIGN_OR_RETURN(metrics_server_, MetricsServer::Start(options.metrics, registry_));
  RETURN_IF_ERROR(MakeTracker(options));
  Shell::Options shell;
  shell.settings = options.settings;
  if (tracker_ != nullptr) {
    shell.on_jobs_changed = [this](const std::vector<JobId>& jobs) { tracker_->Changed(jobs); };
  }
  shell_ =
      std::make_unique<Shell>(std::move(snapshot), *store_, clock_, &metrics_, std::move(shell));
  models_ = std::make_unique<InferenceModels>(*shell_);
  shell_->StartTimer([this, models = models_.get()] { models->Gone(inference_.Expire()); });
  InferencePool::Options pool;
  pool.client.ca_file = options.server.tls.ca_file;
  pool.client.token_file = options.server.token_file;
  pool_ = std::make_unique<InferencePool>(clock_, inference_, *models_, pool, &registry_);
  jobs_ = std::make_unique<JobService>(*shell_, streams_);
  checkpoints_ = std::make_unique<CheckpointService>(*shell_);
  workers_ = std::make_unique<WorkerService>(*shell_);
  deployments_ = std::make_unique<DeploymentService>(*shell_);
  agents_ = std::make_unique<WorkerAgentService>(*shell_, options.synchronize_park);
  inference_agents_ =
      std::make_unique<InferenceAgentService>(inference_, *models_, options.synchronize_park);
  gateway_ = std::make_unique<InferenceGateway>(*pool_, streams_);
  registry_.OnScrape([this] {
    shell_->Peek([this](const sched::State& state, const sched::Now& now) {
      metrics_.SetGauges(state, now);
    });
  });
  GrpcServerOptions server = options.server;
  server.metrics = &registry_;
  // Workers live by their calls: a lease must not run out because clients ask for much.
  const CallLimits of_agents;
  const std::vector<GrpcService> services = {
      {v1::JobService::service_full_name(), jobs_.get()},
      {v1::CheckpointService::service_full_name(), checkpoints_.get()},
      {v1::WorkerService::service_full_name(), workers_.get()},
      {v1::DeploymentService::service_full_name(), deployments_.get()},
      // An agent that could not report for long has much to tell.
      {v1::WorkerAgentService::service_full_name(), agents_.get(), kMaxGrpcMessageBytes, of_agents},
      {v1::InferenceAgentService::service_full_name(), inference_agents_.get(), kMaxRequestBytes,
       of_agents},
      {v1::InferenceService::service_full_name(), gateway_.get(), kMaxPromptBytes}};
  ASSIGN_OR_RETURN(server_, GrpcServer::Start(server, services));
  for (const GrpcService& service : services) server_->SetServing(service.full_name, true);
  if (tracker_ != nullptr) tracker_->Start();
  return absl::OkStatus();
}

std::string Coordinator::metrics_address() const {
  return absl::StrCat(metrics_host_, ":", metrics_server_->port());
}

void Coordinator::Drain(absl::Duration deadline) {
  server_->StopServing();
  agents_->Shutdown();
  inference_agents_->Shutdown();
  streams_.Drain();
  server_->Drain(deadline);
}

Coordinator::~Coordinator() {
  // A scrape looks at the shell, calls end in the services: first nobody calls any more.
  if (agents_ != nullptr) agents_->Shutdown();
  if (inference_agents_ != nullptr) inference_agents_->Shutdown();
  streams_.Drain();
  server_.reset();
  metrics_server_.reset();
  // Replies to calls that have ended are still on their way through the services.
  if (shell_ != nullptr) shell_->Stop();
  if (tracker_ != nullptr) tracker_->Stop();
}

}  // namespace mindforge
