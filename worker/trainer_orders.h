// An order of the agent's as training's plain options: the one place that knows both.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mindforge/v1/trainer.pb.h"
#include "worker/train/train_options.h"

namespace mindforge {

// Descriptors that the agent opens in the trainer.
inline constexpr int kAgentFd = 3;
inline constexpr int kStoreFd = 4;

// INVALID_ARGUMENT for what the job file has wrong, INTERNAL for an order that makes no sense.
absl::StatusOr<TrainOptions> TrainOptionsFromOrder(const v1::StartTraining& order);

// Why training failed, as the agent is told.
v1::TrainerFailure FailureReport(const absl::Status& status);

}  // namespace mindforge
