#include "worker/train/step_runner.h"

#include <ATen/core/Tensor.h>

#include <cmath>

#include "common/status_macros.h"
#include "worker/model/schedule.h"
#include "worker/train/device_setup.h"

namespace mindforge {
namespace {

// Keys a microbatch's dropout masks: SplitMix64's finaliser over its place, so that neighbours
// share nothing.
uint64_t DropoutKey(uint64_t seed, int64_t step, int64_t microbatch) {
  uint64_t key = seed;
  for (const int64_t part : {step, microbatch}) {
    key += static_cast<uint64_t>(part) + 0x9E3779B97F4A7C15u;
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
    key ^= key >> 31;
  }
  return key;
}

}  // namespace

StepRunner::StepRunner(const TrainParts& parts)
    : parts_(parts),
      reducer_(parts.model.trained_count(), parts.model.device(), parts.group),
      guard_(parts.recipe.dtype == TrainDtype::kFloat16, parts.recipe.nan_policy) {}

absl::StatusOr<StepResult> StepRunner::Run(int64_t step, absl::Duration timeout,
                                           CheckpointWriter* writer) {
  StepResult result;
  const StepPosition position = parts_.setup.plan->PositionOf(step);
  const int64_t microbatches = parts_.setup.plan->MicrobatchesInStep(position.step_in_epoch);
  RETURN_IF_ERROR(ComputeRun(step, position, reducer_.BeginStep(microbatches), &result));
  Lap lap(parts_.clock);
  ASSIGN_OR_RETURN(const GradientReducer::Sum sum, reducer_.Finish(timeout));
  result.loss = sum.loss.item<float>() / static_cast<double>(microbatches);
  result.timings.exchange = lap();
  if (writer != nullptr) {
    result.timings.stall = absl::ToDoubleSeconds(writer->WaitForCopy());
    lap();
  }
  result.learning_rate = LearningRate(parts_.recipe.schedule, parts_.recipe.learning_rate, step,
                                      parts_.setup.total_steps);
  if (guard_.scaled()) result.loss_scale = guard_.loss_scale();
  // The combined sums have the same bits everywhere, so every rank comes to the same verdict.
  const bool applied = std::isfinite(result.loss) && Apply(sum.gradient, microbatches, &result);
  result.verdict = guard_.Finished(applied);
  result.timings.update = lap();
  return result;
}

absl::Status StepRunner::ComputeRun(int64_t step, const StepPosition& position,
                                    const MicrobatchRange& run, StepResult* result) {
  Lap lap(parts_.clock);
  for (int64_t i = run.begin; i < run.end; ++i) {
    ASSIGN_OR_RETURN(const MicrobatchLoader::Loaded loaded, parts_.loader.Load(position, i));
    result->sequences += loaded.sequences;
    result->tokens += loaded.tokens;
    result->timings.data += lap();
    const PassOptions pass{.dropout_key = DropoutKey(parts_.recipe.seed, step, i),
                           .loss_scale = static_cast<float>(guard_.loss_scale())};
    ASSIGN_OR_RETURN(const at::Tensor loss, parts_.model.ForwardBackward(
                                                loaded.microbatch, reducer_.NextGradient(), pass));
    reducer_.Add(loss);
    result->timings.compute += lap();
  }
  Synchronize(parts_.model.device());
  result->timings.compute += lap();
  return absl::OkStatus();
}

// False when the gradient's norm is not finite: nothing was changed then.
bool StepRunner::Apply(const at::Tensor& gradient, int64_t microbatches, StepResult* result) {
  Minimind& model = parts_.model;
  const auto trained = [&model](const at::Tensor& flat) {
    return flat.defined() ? flat.narrow(0, model.trained_offset(), model.trained_count()) : flat;
  };
  const AdamWResult updated = parts_.optimizer.Step(
      {.step = guard_.next_update(),
       .learning_rate = result->learning_rate,
       .gradient_scale = 1.0 / (static_cast<double>(microbatches) * guard_.loss_scale())},
      gradient, trained(model.flat_parameters()), trained(model.compute_parameters()));
  result->gradient_norm = updated.gradient_norm;
  return updated.applied;
}

}  // namespace mindforge
