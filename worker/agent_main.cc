// mindforge-worker: the agent of a training node.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "common/config.h"
#include "common/grpc_client.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/shutdown.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "worker/agent/agent.h"
#include "worker/agent/agent_options.h"
#include "worker/agent/devices.h"
#include "worker/agent/identity.h"
#include "worker/agent/store_socket.h"

namespace mindforge {
namespace {

constexpr char kProgram[] = "mindforge-worker";

std::string ProgramPath() {
  char path[4096] = {};
  return readlink("/proc/self/exe", path, sizeof(path) - 1) > 0 ? path : kProgram;
}

absl::Status Serve(const v1::WorkerConfig& config) {
  ASSIGN_OR_RETURN(const AgentOptions options, MakeAgentOptions(config, ProgramPath()));
  ASSIGN_OR_RETURN(const DeviceSpec spec, ParseDeviceSpec(options.devices));
  ASSIGN_OR_RETURN(const std::vector<v1::Device> devices,
                   MakeDevices(spec, FindHardware(), options.threads_per_device));
  if (access(options.trainer.c_str(), X_OK) != 0) {
    return absl::NotFoundError("there is no trainer to run at " + options.trainer +
                               "; set `trainer` in the configuration or MINDFORGE_TRAINER");
  }
  RETURN_IF_ERROR(CheckAdvertise(options));
  Shutdown shutdown;
  ASSIGN_OR_RETURN(const std::unique_ptr<Identity> identity, Identity::Open(options.data_dir));
  MetricsRegistry registry(kProgram);
  ASSIGN_OR_RETURN(const std::unique_ptr<MetricsServer> metrics,
                   MetricsServer::Start(options.metrics, registry));
  ASSIGN_OR_RETURN(const auto channel, MakeChannel(options.coordinator, options.client));
  Agent agent(options, devices, *identity, registry, channel);
  shutdown.OnRequest([&agent] { agent.RequestDrain(); });
  MF_LOG(INFO) << "worker " << identity->worker_id() << " (" << options.name << ") offers "
               << devices.size() << (devices.size() == 1 ? " device" : " devices") << " to "
               << options.coordinator << ", metrics on port " << metrics->port();
  return agent.Run();
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  using namespace mindforge;  // NOLINT: this file is the program
  CLI::App app("Runs trainers on this machine's devices for a mindforge-coordinator.", kProgram);
  v1::WorkerConfig flags;
  std::string config_path;
  int threads = 0;
  bool version = false;
  app.add_option("--config", config_path, "YAML file of the WorkerConfig message");
  const auto add = [&](const char* name, std::string* (v1::WorkerConfig::*field)(),
                       const char* help) {
    app.add_option_function<std::string>(
        name, [&flags, field](const std::string& value) { *(flags.*field)() = value; }, help);
  };
  add("--coordinator", &v1::WorkerConfig::mutable_coordinator, "HOST:PORT of the coordinator");
  add("--name", &v1::WorkerConfig::mutable_name, "shown in tables; default the host's name");
  add("--devices", &v1::WorkerConfig::mutable_devices, "auto | cpu:N | cuda:0,cuda:1");
  add("--advertise", &v1::WorkerConfig::mutable_advertise, "host that other workers reach");
  add("--data-dir", &v1::WorkerConfig::mutable_data_dir, "folder of the worker's id");
  add("--metrics", &v1::WorkerConfig::mutable_metrics, "HOST:PORT of /metrics");
  app.add_option("--threads-per-device", threads, "threads that a CPU slot computes with");
  app.add_flag("--version", version, "print the version and exit");
  CLI11_PARSE(app, argc, argv);
  if (version) {
    std::cout << VersionLine(kProgram) << "\n";
    return 0;
  }
  InitLogging(kProgram);
  v1::WorkerConfig config;
  absl::Status status =
      config_path.empty() ? absl::OkStatus() : LoadYamlConfig(config_path, &config);
  if (threads != 0) flags.set_threads_per_device(threads);
  config.MergeFrom(flags);  // flags override the file
  if (status.ok()) status = Serve(config);
  if (status.ok()) return 0;
  MF_LOG(ERROR) << status.message();
  // What does not mend itself is told apart, so that nobody starts the program again for it: a
  // configuration, and another agent with this one's id, which would only be replaced in turn.
  return absl::IsInvalidArgument(status) || absl::IsAborted(status) ? 2 : 1;
}
