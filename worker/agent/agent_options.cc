#include "worker/agent/agent_options.h"

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/durable_file.h"
#include "common/duration.h"
#include "common/error_details.h"
#include "common/net.h"
#include "common/request_text.h"
#include "worker/agent/devices.h"

namespace mindforge {
namespace {

constexpr int kMaxThreads = 1024;

std::string OrDefault(const std::string& value, const char* otherwise) {
  return value.empty() ? otherwise : value;
}

std::string TrainerPath(const v1::WorkerConfig& config, const std::string& program_path) {
  if (!config.trainer().empty()) return config.trainer();
  if (const char* const path = ::getenv("MINDFORGE_TRAINER"); path != nullptr && *path != '\0') {
    return path;
  }
  const size_t slash = program_path.rfind('/');
  return JoinPath(slash == std::string::npos ? "." : program_path.substr(0, slash),
                  "mindforge-trainer");
}

}  // namespace

absl::StatusOr<AgentOptions> MakeAgentOptions(const v1::WorkerConfig& config,
                                              const std::string& program_path) {
  std::vector<FieldViolation> problems;
  AgentOptions options;
  options.coordinator = OrDefault(config.coordinator(), "127.0.0.1:7070");
  options.name = config.name().empty() ? HostName() : config.name();
  options.devices = OrDefault(config.devices(), "auto");
  options.threads_per_device = config.threads_per_device();
  options.advertise = OrDefault(config.advertise(), "127.0.0.1");
  options.data_dir = OrDefault(config.data_dir(), "./mindforge-data/worker");
  options.metrics = OrDefault(config.metrics(), "127.0.0.1:9465");
  options.client.ca_file = config.tls().ca_file();
  options.client.token_file = config.token_file();
  // After a coordinator's restart its agents should be back at once.
  options.client.max_reconnect_backoff = absl::Seconds(1);
  options.trainer = TrainerPath(config, program_path);
  if (const auto address = ParseHostPort(options.coordinator); !address.ok()) {
    problems.push_back({"coordinator", std::string(address.status().message())});
  }
  if (const absl::Status text = CheckText("name", options.name); !text.ok()) {
    problems.push_back(GetViolations(text).front());
  }
  if (const absl::Status host = CheckHost(options.advertise); !host.ok()) {
    problems.push_back({"advertise", std::string(host.message())});
  }
  if (options.threads_per_device < 0 || options.threads_per_device > kMaxThreads) {
    problems.push_back({"threads_per_device", absl::StrCat("must be from 1 to ", kMaxThreads,
                                                           ", got ", options.threads_per_device)});
  }
  if (const auto devices = ParseDeviceSpec(options.devices); !devices.ok()) {
    problems.push_back({"devices", std::string(devices.status().message())});
  }
  if (!config.drain_timeout().empty()) {
    const auto timeout = ParseDuration(config.drain_timeout());
    if (timeout.ok()) options.drain_timeout = *timeout;
    if (!timeout.ok()) {
      problems.push_back({"drain_timeout", std::string(timeout.status().message())});
    }
  }
  if (!problems.empty()) return InvalidArgument(problems, "INVALID_CONFIG");
  return options;
}

}  // namespace mindforge
