#include "worker/serve/inference_server.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "common/version.h"

namespace mindforge {
namespace {

constexpr char kService[] = "mindforge.v1.InferenceService";
// Finished streams leave through the socket after the last token.
constexpr absl::Duration kFlushTime = absl::Seconds(5);

// A coordinator that starts again is found within a second.
constexpr absl::Duration kReconnectBackoff = absl::Milliseconds(500);

// A folder's name, fit for a model's name.
std::string NameOf(const std::string& folder) {
  std::error_code error;  // "." and ".." have no name of their own
  std::filesystem::path path = std::filesystem::absolute(folder, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.has_filename() ? path.filename().string() : "model";
}

// What `--model` and the options beside it ask for.
v1::DesiredModel OwnModel(const InferenceOptions& options) {
  v1::DesiredModel desired;
  desired.set_deployment(NameOf(options.model));
  desired.set_path(options.model);
  std::string version = NameOf(options.model);
  if (!options.lora.empty()) absl::StrAppend(&version, "+", NameOf(options.lora));
  if (options.rope_scaling) absl::StrAppend(&version, "+rope-", options.rope_scaling->type());
  desired.set_weights_version(version);
  desired.set_prompt_style(options.prompt_style);
  desired.set_lora_path(options.lora);
  if (options.rope_scaling) *desired.mutable_rope_scaling() = *options.rope_scaling;
  return desired;
}

}  // namespace

absl::StatusOr<std::unique_ptr<InferenceServer>> InferenceServer::Start(
    const InferenceOptions& options, ModelHost::Loader loader) {
  auto server = std::unique_ptr<InferenceServer>(new InferenceServer(options, std::move(loader)));
  RETURN_IF_ERROR(server->Listen());
  if (!options.coordinator.empty()) {
    RETURN_IF_ERROR(server->StartAgent());
  } else {
    server->host_->SetDesired(OwnModel(options));
  }
  return server;
}

InferenceServer::InferenceServer(const InferenceOptions& options, ModelHost::Loader loader)
    : options_(options), registry_("mindforge-inference"), metrics_(registry_) {
  ModelHost::Options host;
  host.clock = &clock_;
  host.loader = loader != nullptr ? std::move(loader)
                                  : [runner = options.runner](const v1::DesiredModel& desired) {
                                      return LoadModelFolder(desired, runner);
                                    };
  host.engine.max_queue = options.queue_capacity;
  host.observer = &metrics_;
  host.on_change = [this] { HostChanged(); };
  // A folder of one's own that cannot be served ends the program; a deployment may mend itself.
  if (options.coordinator.empty()) host.retry_after = absl::InfiniteDuration();
  host_ = std::make_unique<ModelHost>(std::move(host));
}

InferenceServer::~InferenceServer() {
  // Requests under way must end before the gRPC server can.
  if (agent_ != nullptr) agent_->Stop();
  host_->Stop();
}

absl::Status InferenceServer::Listen() {
  worker_id_ = options_.name;
  if (!options_.coordinator.empty()) {
    ASSIGN_OR_RETURN(identity_, TakeWorkerIdentity(options_.data_dir));
    worker_id_ = identity_.id;
  }
  service_ = std::make_unique<InferenceServiceImpl>(
      *host_, courier_, streams_, InferenceServiceImpl::Options{.worker_id = worker_id_});
  GrpcServerOptions server = options_.server;
  server.metrics = &registry_;
  ASSIGN_OR_RETURN(server_,
                   GrpcServer::Start(server, {{kService, service_.get(), kMaxPromptBytes}}));
  metrics_.Watch(*host_);
  ASSIGN_OR_RETURN(metrics_server_, MetricsServer::Start(options_.metrics, registry_));
  return absl::OkStatus();
}

absl::Status InferenceServer::StartAgent() {
  InferenceAgent::Options agent;
  GrpcClientOptions client = options_.client;
  client.max_reconnect_backoff = kReconnectBackoff;
  ASSIGN_OR_RETURN(agent.channel, MakeChannel(options_.coordinator, client));
  agent.coordinator = options_.coordinator;
  agent.worker_id = worker_id_;
  agent.name = options_.name;
  agent.version = kVersion;
  ASSIGN_OR_RETURN(HostPort address, ParseHostPort(server_->address()));
  if (!options_.advertise.empty()) address.host = options_.advertise;
  agent.address = address.ToString();
  agent.device = options_.runner.device;
  agent_ = std::make_unique<InferenceAgent>(std::move(agent), *host_);
  agent_->Start();
  return absl::OkStatus();
}

// Nothing is desired of the host before everything here is built, so all parts are there.
void InferenceServer::HostChanged() {
  const HostState state = host_->State();
  metrics_.SetVersion(state.model.get());
  server_->SetServing(kService, state.model != nullptr && !state.draining && state.failure.ok());
  if (agent_ != nullptr) agent_->Poke();
}

absl::Status InferenceServer::WaitForModel() {
  return options_.model.empty() ? absl::OkStatus() : host_->WaitUntilSettled();
}

void InferenceServer::Drain(absl::Duration timeout) {
  streams_.Drain();
  const absl::Status drained = host_->Drain(timeout);
  if (!drained.ok()) MF_LOG(WARNING) << "draining: " << drained.message() << "; they are ended";
  host_->Stop();
  server_->Drain(kFlushTime);
  if (agent_ != nullptr) agent_->Stop();
}

}  // namespace mindforge
