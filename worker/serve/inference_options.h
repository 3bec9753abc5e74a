// InferenceConfig with its defaults filled in and its values checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/grpc_client.h"
#include "common/grpc_server.h"
#include "mindforge/v1/config.pb.h"
#include "worker/infer/runner_factory.h"

namespace mindforge {

struct InferenceOptions {
  std::string coordinator;  // empty: none, `model` is served
  std::string model;
  // How `model` is loaded and prompted.
  std::string lora;
  std::optional<v1::RopeScalingSpec> rope_scaling;
  v1::PromptStyle prompt_style = v1::PROMPT_STYLE_UNSPECIFIED;
  std::string metrics;
  std::string advertise;  // host; empty: the one listened on
  std::string name;
  std::string data_dir;
  int64_t queue_capacity = 256;
  GrpcServerOptions server;  // but for its metrics registry
  GrpcClientOptions client;
  RunnerOptions runner;  // but for its folder
};

// INVALID_ARGUMENT lists every value that cannot be, by field and flag.
absl::StatusOr<InferenceOptions> ReadInferenceOptions(const v1::InferenceConfig& config);

}  // namespace mindforge
