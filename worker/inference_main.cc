// mindforge-inference: serves generation on one device, told by a coordinator what to serve, or a
// folder on its own.
#include <cstdio>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/shutdown.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "worker/serve/exit_watchdog.h"
#include "worker/serve/inference_server.h"

namespace mindforge {
namespace {

constexpr absl::Duration kDrainTime = absl::Seconds(60);
// A device that failed has nothing to finish.
constexpr absl::Duration kFailedDrainTime = absl::Seconds(5);
// Beyond the drain, for steps under way and streams to end.
constexpr absl::Duration kExitTime = absl::Seconds(30);
constexpr int kUsage = 2;

struct Flags {
  std::string config;
  std::string http;
  v1::InferenceConfig given;  // what flags set; goes over the file
};

absl::Status Serve(const Flags& flags) {
  if (!flags.http.empty()) {
    return absl::UnimplementedError(
        "--http: the inference worker has no HTTP door yet; leave it out and use the gRPC API");
  }
  v1::InferenceConfig config;
  if (!flags.config.empty()) RETURN_IF_ERROR(LoadYamlConfig(flags.config, &config));
  config.MergeFrom(flags.given);
  ASSIGN_OR_RETURN(const InferenceOptions options, ReadInferenceOptions(config));
  Shutdown shutdown;
  std::optional<ExitWatchdog> watchdog;  // outlasts the server's destructor
  ASSIGN_OR_RETURN(const std::unique_ptr<InferenceServer> server, InferenceServer::Start(options));
  MF_LOG(INFO) << "listening on " << server->address();
  HostPort metrics = *ParseHostPort(options.metrics);
  metrics.port = server->metrics_port();
  MF_LOG(INFO) << "metrics on " << metrics.ToString();
  absl::Status status = server->WaitForModel();
  if (!shutdown.requested()) {
    // Not status 2, which is for configuration and ends a supervisor's patience: a folder may be
    // mended.
    if (!status.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("serving --model ", options.model, ": ", std::string(status.message())));
    }
    server->host().OnFailure([&shutdown] { shutdown.Request(); });
    shutdown.Wait();
  }
  const absl::Status failure = server->host().State().failure;
  const absl::Duration drain_time = failure.ok() ? kDrainTime : kFailedDrainTime;
  watchdog.emplace(drain_time + kExitTime, "a step of the model");
  server->Drain(drain_time);
  RETURN_IF_ERROR(failure) << "the device no longer works; ending, to be started again";
  return absl::OkStatus();
}

void AddFlags(CLI::App& app, Flags& flags) {
  v1::InferenceConfig& given = flags.given;
  app.add_option("--config", flags.config, "YAML file in the shape of InferenceConfig");
  app.add_option("--coordinator", *given.mutable_coordinator(),
                 "HOST:PORT to ask what to serve (default 127.0.0.1:7070)");
  app.add_option("--listen", *given.mutable_listen(),
                 "HOST:PORT of the gRPC API (default 127.0.0.1:7071)");
  app.add_option(
      "--advertise", *given.mutable_advertise(),
      "host that the coordinator reaches this one by (default: listen's, unless 0.0.0.0)");
  app.add_option("--device", *given.mutable_device(), "cpu or cuda:0 (default cpu)");
  app.add_option("--model", *given.mutable_model(), "folder to serve with no coordinator");
  app.add_option("--lora", *given.mutable_lora(),
                 "with --model: LoRA file (.pth or .safetensors) merged into the weights");
  app.add_option_function<std::string>(
         "--rope-scaling",
         [&given](const std::string& type) { given.mutable_rope_scaling()->set_type(type); },
         "with --model: minimind, yarn or none, instead of what config.json says")
      ->check(CLI::IsMember({"minimind", "yarn", "none"}));
  app.add_option_function<std::string>(
         "--prompt-style",
         [&given](const std::string& style) {
           given.set_prompt_style(style == "chat" ? v1::PROMPT_STYLE_CHAT
                                                  : v1::PROMPT_STYLE_COMPLETION);
         },
         "with --model: completion or chat (default: as the folder says)")
      ->check(CLI::IsMember({"completion", "chat"}));
  app.add_option("--metrics", *given.mutable_metrics(),
                 "HOST:PORT of /metrics (default 127.0.0.1:9466)");
  app.add_option("--data-dir", *given.mutable_data_dir(),
                 "where the worker's id is kept (default ./mindforge-data/inference)");
  app.add_option("--http", flags.http)->group("");  // not shown: only refused with a reason
  app.add_flag_callback(
      "--insecure", [&given] { given.set_insecure(true); },
      "listen beyond loopback without TLS and token");
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  CLI::App app("Serves text generation for MiniMind-class models.", "mindforge-inference");
  mindforge::Flags flags;
  mindforge::AddFlags(app, flags);
  app.set_version_flag("--version", mindforge::VersionLine("mindforge-inference"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : mindforge::kUsage;
  }
  mindforge::InitLogging("mindforge-inference");
  if (const absl::Status status = mindforge::Serve(flags); !status.ok()) {
    MF_LOG(ERROR) << status.message();
    return absl::IsInvalidArgument(status) ? mindforge::kUsage : 1;
  }
  return 0;
}
