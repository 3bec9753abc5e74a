// mindforge-coordinator: flags, configuration, start, wait, drain.
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "common/clock.h"
#include "common/config.h"
#include "common/logging.h"
#include "common/shutdown.h"
#include "common/version.h"
#include "coordinator/coordinator.h"

namespace mindforge {
namespace {

constexpr char kProgram[] = "mindforge-coordinator";
constexpr absl::Duration kDrain = absl::Seconds(10);

struct Flags {
  std::string config, listen, data_dir, metrics, http, token_file;
  bool insecure = false;
};

absl::StatusOr<v1::CoordinatorConfig> ReadConfig(const Flags& flags) {
  v1::CoordinatorConfig config;
  if (!flags.config.empty()) {
    if (absl::Status status = LoadYamlConfig(flags.config, &config); !status.ok()) return status;
  }
  if (!flags.listen.empty()) config.set_listen(flags.listen);
  if (!flags.data_dir.empty()) config.set_data_dir(flags.data_dir);
  if (!flags.metrics.empty()) config.set_metrics(flags.metrics);
  if (!flags.token_file.empty()) config.set_token_file(flags.token_file);
  if (flags.insecure) config.set_insecure(true);
  if (!flags.http.empty()) {
    return absl::UnimplementedError(
        "--http: the coordinator has no HTTP door yet; leave it out and use the gRPC API");
  }
  return config;
}

int Fail(const absl::Status& status) {
  MF_LOG(ERROR) << status.message();
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

int Run(const Flags& flags) {
  const absl::StatusOr<v1::CoordinatorConfig> config = ReadConfig(flags);
  if (!config.ok()) return Fail(config.status());
  const absl::StatusOr<CoordinatorOptions> options = ParseOptions(*config);
  if (!options.ok()) return Fail(options.status());

  Shutdown shutdown;
  const RealClock clock;
  auto coordinator = Coordinator::Start(*options, clock);
  if (!coordinator.ok()) return Fail(coordinator.status());
  MF_LOG(INFO) << "metrics on http://" << (*coordinator)->metrics_address() << "/metrics";
  MF_LOG(INFO) << "listening on " << (*coordinator)->address();

  shutdown.Wait();
  MF_LOG(INFO) << "draining";
  (*coordinator)->Drain(kDrain);
  coordinator->reset();
  MF_LOG(INFO) << "drained";
  return 0;
}

}  // namespace
}  // namespace mindforge

int main(int argc, char** argv) {
  mindforge::InitLogging(mindforge::kProgram);
  mindforge::Flags flags;
  CLI::App app("The Mindforge coordinator: takes jobs, places them, keeps their records.");
  app.set_version_flag("--version", mindforge::VersionLine(mindforge::kProgram));
  app.add_option("--config", flags.config, "YAML file (CoordinatorConfig)");
  app.add_option("--listen", flags.listen, "HOST:PORT of the gRPC API [127.0.0.1:7070]");
  app.add_option("--data-dir", flags.data_dir, "where the store lives");
  app.add_option("--metrics", flags.metrics, "HOST:PORT of /metrics [127.0.0.1:9464]");
  app.add_option("--http", flags.http)->group("");  // refused: --help does not offer it
  app.add_option("--token-file", flags.token_file, "file with the token callers must show");
  app.add_flag("--insecure", flags.insecure, "listen beyond loopback without TLS and token");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  return mindforge::Run(flags);
}
