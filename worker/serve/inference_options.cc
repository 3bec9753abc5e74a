#include "worker/serve/inference_options.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/cpu_cores.h"
#include "common/net.h"
#include "common/request_text.h"
#include "common/status_macros.h"
#include "worker/serve/field_checker.h"

namespace mindforge {
namespace {

std::string Or(const std::string& value, const std::string& fallback) {
  return value.empty() ? fallback : value;
}

bool IsDevice(absl::string_view device) {
  uint32_t index = 0;
  return device == "cpu" ||
         (absl::ConsumePrefix(&device, "cuda:") && absl::SimpleAtoi(device, &index));
}

// Listening on every address of a machine names none of them.
bool IsWildcard(const std::string& address) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  return parsed.ok() && (parsed->host == "0.0.0.0" || parsed->host == "::");
}

void CheckAddress(const std::string& field, const std::string& address, FieldChecker* check) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) check->Add(field, std::string(parsed.status().message()));
}

RunnerOptions Runner(const v1::InferenceConfig& config, FieldChecker* check) {
  RunnerOptions runner;
  runner.device = Or(config.device(), "cpu");
  check->Require(IsDevice(runner.device), "device (--device)",
                 absl::StrCat("is '", runner.device, "'; expected cpu or cuda:0"));
  const std::string dtype = Or(config.dtype(), "bfloat16");
  check->Require(dtype == "bfloat16" || dtype == "float32", "dtype",
                 absl::StrCat("is '", dtype, "'; expected float32 or bfloat16"));
  runner.dtype = dtype == "float32" ? RunnerDtype::kFloat32 : RunnerDtype::kBfloat16;
  const auto positive = [&](const std::string& field, int64_t value, int64_t fallback,
                            int64_t most) {
    if (value == 0) return fallback;
    check->Range(field, value, 1, most);
    return value;
  };
  runner.slots = positive("slots", config.slots(), 32, 4096);
  runner.max_context = positive("max_context", config.max_context(), 2048, 1 << 20);
  runner.threads = positive("threads", config.threads(), UsableCores(), 1024);
  // Every slot must be able to decode beside one chunk of a prompt.
  runner.max_batch_tokens = std::max(runner.max_batch_tokens, runner.slots + 256);
  return runner;
}

}  // namespace

absl::StatusOr<InferenceOptions> ReadInferenceOptions(const v1::InferenceConfig& config) {
  FieldChecker check;
  InferenceOptions options;
  options.model = config.model();
  options.coordinator = config.coordinator();
  if (options.model.empty()) options.coordinator = Or(options.coordinator, "127.0.0.1:7070");
  check.Require(options.model.empty() || options.coordinator.empty(), "model (--model)",
                "serves a folder with no coordinator, but coordinator (--coordinator) is set too; "
                "give one of them");
  if (!options.coordinator.empty()) {
    CheckAddress("coordinator (--coordinator)", options.coordinator, &check);
  }
  options.lora = config.lora();
  if (config.has_rope_scaling()) options.rope_scaling = config.rope_scaling();
  options.prompt_style = config.prompt_style();
  const auto with_model = [&](bool given, const char* field, const char* flag) {
    check.Require(!given || !options.model.empty(), absl::StrCat(field, " (--", flag, ")"),
                  "goes with model (--model); with a coordinator each deployment says its own");
  };
  with_model(!options.lora.empty(), "lora", "lora");
  with_model(config.has_rope_scaling(), "rope_scaling", "rope-scaling");
  with_model(options.prompt_style != v1::PROMPT_STYLE_UNSPECIFIED, "prompt_style", "prompt-style");
  options.server.listen = Or(config.listen(), "127.0.0.1:7071");
  CheckAddress("listen (--listen)", options.server.listen, &check);
  options.metrics = Or(config.metrics(), "127.0.0.1:9466");
  CheckAddress("metrics (--metrics)", options.metrics, &check);
  options.server.tls = {.cert_file = config.tls().cert_file(),
                        .key_file = config.tls().key_file(),
                        .ca_file = config.tls().ca_file()};
  options.server.token_file = config.token_file();
  options.server.insecure = config.insecure();
  options.client.ca_file = config.tls().ca_file();
  options.client.token_file = config.token_file();
  options.advertise = config.advertise();
  check.Require(options.coordinator.empty() || !options.advertise.empty() ||
                    !IsWildcard(options.server.listen),
                "advertise (--advertise)",
                absl::StrCat("is missing: the coordinator cannot reach this worker by ",
                             options.server.listen,
                             " (--listen); give the host name or address that it can"));
  options.name = Or(config.name(), HostName());
  if (const absl::Status text = CheckText("name (--name)", options.name); !text.ok()) {
    check.Add("name (--name)", GetViolations(text).front().description);
  }
  if (const absl::Status host = CheckHost(options.advertise); !host.ok()) {
    check.Add("advertise (--advertise)", std::string(host.message()));
  }
  options.data_dir = Or(config.data_dir(), "mindforge-data/inference");
  if (config.queue_capacity() != 0) {
    check.Range("queue_capacity", config.queue_capacity(), 1, 1 << 20);
    options.queue_capacity = config.queue_capacity();
  }
  options.runner = Runner(config, &check);
  RETURN_IF_ERROR(check.status());
  return options;
}

}  // namespace mindforge
